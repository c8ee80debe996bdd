"""Telling people: each thing once, to everybody who takes it, whatever the mail server does."""

from __future__ import annotations

import contextlib
import email
import email.policy
import hashlib
import json
import os
import re
import shutil
import socket
import sys
import threading
import time
import unicodedata
from base64 import b64encode
from collections.abc import Iterator
from email.message import EmailMessage
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar

import pytest

from tests.lab.crashing import CRASHED
from tests.lab.mailbox import Mailbox, content
from tests.lab.small_disk import SmallDisk
from tests.lab.zygote import Crash, Zygote
from tests.program import Program, Ran, wait_for
from tests.test_monitor import HOUR, beat, ticked

MIB = 1 << 20


class MailServer:
    """A mail server on loopback with a will of its own; use it in a `with` block.

    `answers` are lines to say instead of `250 ok`, by a part of the command, or of the letter.
    `slow` are seconds before the answer to a letter. `taken` are the reader and the subject of each
    letter that was taken, `letters` what came over the wire, `asked` how many there were,
    `said` the verb of each command.
    """

    def __init__(self) -> None:
        self.answers: dict[str, str] = {}
        self.slow = 0.0
        self.taken: list[tuple[str, str]] = []
        self.letters: list[bytes] = []
        self.said: list[str] = []
        self.asked = 0
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.port = self._listening.getsockname()[1]
        self._threads = [threading.Thread(target=self._accept)]

    def __enter__(self) -> MailServer:
        self._threads[0].start()
        return self

    def __exit__(self, *_: object) -> None:
        self._listening.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join()
        self._listening.close()

    def url(self, *readers: str) -> str:
        """What to put under `notify`; one reader by default."""
        return f"smtp://127.0.0.1:{self.port}/?to={','.join(readers or ['lab@example.org'])}"

    def subjects(self, reader: str = "lab@example.org") -> list[str]:
        """The subjects of what a reader has got since the last call, sorted."""
        found = sorted(subject for to, subject in self.taken if to == reader)
        self.taken = [each for each in self.taken if each[0] != reader]
        return found

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = self._listening.accept()
                self._threads.append(threading.Thread(target=self._serve, args=[connection]))
                self._threads[-1].start()

    def _serve(self, connection: socket.socket) -> None:
        with connection, connection.makefile("rwb", 0) as file, contextlib.suppress(OSError):
            file.write(b"220 here\r\n")
            reader = ""
            for line in iter(file.readline, b""):
                verb, _, rest = line.decode().strip().partition(" ")
                command = f"{verb.upper()} {rest}".strip()
                self.said.append(verb.upper())
                answer = self._answer(command)
                if command.startswith("RCPT") and answer.startswith("250"):
                    reader = command.partition("<")[2].partition(">")[0]
                if command == "DATA":
                    answer = self._take(file, reader)
                file.write(f"{answer}\r\n".encode())
                if command == "QUIT":
                    return

    def _answer(self, command: str) -> str:
        found = [self.answers[key] for key in self.answers if key in command]
        return found[0] if found else "221 bye" if command == "QUIT" else "250 ok"

    def _take(self, file: Any, reader: str) -> str:
        file.write(b"354 go on\r\n")
        lines = list(iter(file.readline, b".\r\n"))
        self.letters.append(b"".join(lines))
        subject = next(line for line in lines if line.startswith(b"Subject: ")).decode()
        self.asked += 1
        time.sleep(self.slow)
        answer = self._answer(self.letters[-1].decode())
        if answer.startswith("250"):
            self.taken.append((reader, subject.strip().removeprefix("Subject: [ontpush] ")))
        return answer


@pytest.fixture
def server(monitor: Program) -> Iterator[MailServer]:
    """The mail server that the monitor tells everything to."""
    with MailServer() as server:
        monitor.settings["notify"] = [{"url": server.url()}]
        yield server


def stalled(root: Path, *instruments: str) -> None:
    """Let instruments say that a run of theirs has stalled: a mail for each."""
    for name in instruments:
        beat(root / name, {"run": "a/b", "state": "stalled"})


def failed(root: Path, instrument: str, error: str = "it is broken") -> None:
    """Let an instrument say that a run of its has failed."""
    beat(root / instrument, {"run": "a/b", "state": "failed", "error": error})


# The command at which it is said, or a part of the subject: after the letter.
FOR_GOOD = [
    ("RCPT", "550 no such user"),
    ("RCPT", "550 5.1.1 no such user"),
    ("RCPT", "550 Unknown user"),
    ("RCPT", "550 Unrouteable address"),
    ("RCPT", "551 user <lab@example.org> not found"),
    ("RCPT", "553 sorry, no mailbox here by that name"),
    ("MAIL", "552 message too big"),
    ("MAIL", "552 5.3.4 message too big"),
    ("stalled", "552 5.3.4 message too big"),
    ("stalled", "554 5.6.0 I do not like its content"),
    ("stalled", "554 transaction failed"),
]
NOT_FOR_GOOD = [
    ("MAIL", "530 5.7.0 authentication required"),
    ("MAIL", "530 authentication required"),
    ("MAIL", "504 command parameter not implemented"),
    ("MAIL", "550 5.7.1 you are listed"),
    ("MAIL", "554 5.7.1 relay access denied"),
    ("MAIL", "421 too many connections"),
    ("MAIL", "550 5.1.1 no such user"),
    ("MAIL", "553 5.6.7 that address needs SMTPUTF8"),
    ("RCPT", "550 relay not permitted"),
    ("RCPT", "550 Sender verify failed"),
    ("RCPT", "550 Verification failed for <me@x.org>: Unrouteable address"),
    ("RCPT", "550 Administrative prohibition"),
    ("RCPT", "553 you are not in my list"),
    ("RCPT", "554 5.7.1 relay access denied"),
    ("RCPT", "554 relay access denied"),
    ("RCPT", "553 sorry, not in my list of hosts (#5.7.1)"),
    ("RCPT", "552 5.2.2 mailbox full"),
    ("RCPT", "552 mailbox full"),
    ("RCPT", "452 too many recipients"),
    ("stalled", "550 5.7.1 too many letters from you"),
    ("stalled", "552 5.2.2 mailbox full"),
    ("stalled", "503 what?"),
    ("stalled", "421 4.7.0 closing"),
]


# Time for all letters passes quickly.
A_MINUTE_A_SECOND = "import time\n_real = time.monotonic\ntime.monotonic = lambda: _real() * 60\n"
# What the Apprise library waits before each piece for this service, in seconds; here much less.
ROCKET_WAITS = 5.5
NO_WAITS = "import time\n_sleep = time.sleep\ntime.sleep = lambda seconds: _sleep(seconds / 1000)\n"


def complained(monitor: Program, *words: str) -> Ran:
    """A tick with one line of trouble, in which these words are."""
    ran = monitor.run("monitor")
    assert ran.code == 1, ran
    (line,) = ran.err.splitlines()
    for word in words:
        assert word in line
    return ran


# -- what the mail server refuses -----------------------------------------------------------


@pytest.mark.newest
def test_who_is_refused_for_good_keeps_no_other_from_being_told_once(
    monitor: Program, root: Path, server: MailServer
) -> None:
    monitor.settings["notify"] = [{"url": server.url("gone@example.org", "lab@example.org")}]
    server.answers["gone@"] = "550 no such user"
    stalled(root, "one")
    complained(monitor, "gone@example.org", "550 no such user", "given up", "stalled: b (one)")
    assert len(monitor.told("FAIL")) == 1
    assert server.subjects() == ["stalled: b (one)"]
    assert monitor.run("monitor").is_silent
    failed(root, "two")
    complained(monitor, "gone@example.org")
    assert server.subjects() == ["failed: b (two)"]
    assert monitor.run("monitor").is_silent
    assert server.subjects() == []


def test_who_is_refused_for_now_is_told_later_and_the_others_once(
    monitor: Program, root: Path, server: MailServer
) -> None:
    monitor.settings["notify"] = [{"url": server.url("full@example.org", "lab@example.org")}]
    server.answers["full@"] = "452 mailbox full"
    stalled(root, "one")
    complained(monitor, "full@example.org", "452 mailbox full", "tried again")
    assert monitor.run("monitor").is_silent
    assert server.subjects() == ["stalled: b (one)"]
    assert server.subjects("full@example.org") == []
    server.answers.clear()
    ticked(monitor)
    assert server.subjects() == []
    assert server.subjects("full@example.org") == ["stalled: b (one)"]


@pytest.mark.newest
def test_a_letter_that_is_refused_for_good_is_given_up_aloud_and_the_others_go(
    monitor: Program, root: Path, server: MailServer
) -> None:
    server.answers["stalled: b (one)"] = "552 too large"
    stalled(root, "one", "two")
    complained(monitor, "stalled: b (one)", "552 too large", "given up")
    assert server.subjects() == ["stalled: b (two)"]
    assert monitor.run("monitor").is_silent
    assert server.asked == 2


@pytest.mark.newest
def test_a_letter_that_is_refused_for_now_holds_up_none_behind_it(
    monitor: Program, root: Path, server: MailServer
) -> None:
    server.answers["stalled: b (one)"] = "451 later"
    stalled(root, "one", "two")
    complained(monitor, "451 later", "tried again")
    assert server.subjects() == ["stalled: b (two)"]
    failed(root, "three")
    ticked(monitor)
    assert server.subjects() == ["failed: b (three)"]
    server.answers.clear()
    ticked(monitor)
    assert server.subjects() == ["stalled: b (one)"]


def test_a_letter_of_a_thousand_long_messages_is_no_larger_than_a_server_takes(
    monitor: Program, root: Path, mailbox: Mailbox
) -> None:
    mailbox.stop()
    monitor.settings["notify"][0]["kinds"] = ["failed"]
    for state, error in (("failed", "\1" * 2000), ("stalled", ""), ("failed", "\2" * 2000)):
        runs = [{"run": f"a/r{n}", "state": state, "error": error} for n in range(400)]
        beat(root / "evil", *runs)
        monitor.run("monitor")
    mailbox.start()
    ticked(monitor)
    mails = {str(mail["Subject"]): mail for mail in mailbox.mails()}
    mail = mails["[ontpush] failed: 600 messages (evil)"]
    assert len(mail.as_bytes()) < 5 * MIB
    assert content(mail, "plain").count("- r299 (evil): ") == 2
    assert "and 100 more" in content(mail, "plain")
    assert "and 100 more" in content(mail, "html")


@pytest.mark.newest
def test_a_check_finds_who_will_be_refused(
    monitor: Program, root: Path, server: MailServer
) -> None:
    stalled(root, "one")
    monitor.settings["notify"] = [{"url": server.url("gone@example.org", "lab@example.org")}]
    server.answers["gone@"] = "550 no such user"
    checks = monitor.run("check", "--json").json["data"]["checks"]
    found = {each["what"]: each for each in checks}
    assert "550 no such user" in found["notify[0] gone@example.org"]["text"]
    assert found["notify[0] lab@example.org"]["verdict"] == "ok"
    assert server.asked == 0


@pytest.mark.newest
@pytest.mark.parametrize("word", ["250 bye", "500 what?"])
def test_a_server_that_says_good_bye_oddly_has_taken_the_mail(
    monitor: Program, root: Path, server: MailServer, word: str
) -> None:
    server.answers["QUIT"] = word
    stalled(root, "one")
    ticked(monitor)
    ticked(monitor)
    assert server.subjects() == ["stalled: b (one)"]


@pytest.mark.newest
@pytest.mark.parametrize("answer", FOR_GOOD)
def test_what_is_about_this_reader_or_letter_for_good_is_given_up(
    monitor: Program, root: Path, server: MailServer, answer: tuple[str, str]
) -> None:
    command, said = answer
    server.answers[command] = said
    stalled(root, "one")
    complained(monitor, said, "given up", "stalled: b (one)")
    server.answers.clear()
    ticked(monitor)
    assert server.subjects() == []


@pytest.mark.newest
@pytest.mark.parametrize("answer", NOT_FOR_GOOD)
def test_what_a_server_refuses_for_whoever_calls_it_waits_until_it_does_not(
    monitor: Program, root: Path, server: MailServer, answer: tuple[str, str]
) -> None:
    command, said = answer
    server.answers[command] = said
    stalled(root, "one")
    complained(monitor, said, "tried again")
    server.answers.clear()
    ticked(monitor)
    assert server.subjects() == ["stalled: b (one)"]


# -- what a stranger may write -----------------------------------------------------------------

HEADERS = {
    "From",
    "To",
    "Subject",
    "Date",
    "Message-ID",
    "Auto-Submitted",
    "X-Ontpush-Kind",
    "MIME-Version",
    "Content-Type",
}
BODY = b64encode(b"x\r\nBcc: evil@x.org\r\n\r\nall is well").decode()
LIKE_HEADERS = [
    "=?utf-8?q?a=0D=0ABcc:_evil=40x.org=0D=0A?=",
    f"=?utf-8?b?{BODY}?=",
    "=?utf-8?q?all_is_well?=",
    "=?us-ascii?q?x?= =?utf-8?q?y?= ü",
    "=?utf-8?q?" + "all_is_well_" * 30 + "?=",
    "ü€😀" * 30,
    "b (two)" + " " * 100,
]


@pytest.mark.newest
@pytest.mark.parametrize("name", LIKE_HEADERS)
def test_a_run_whose_name_looks_like_headers_is_told_by_its_name(
    monitor: Program, root: Path, server: MailServer, name: str
) -> None:
    beat(root / "one", {"run": f"a/{name}", "state": "stalled"})
    ticked(monitor)
    (letter,) = server.letters
    head, _, _ = letter.partition(b"\r\n\r\n")
    assert all(len(line) <= 200 and line.isascii() for line in head.split(b"\r\n"))
    mail = email.message_from_bytes(letter.replace(b"\r", b""), policy=email.policy.default)
    assert isinstance(mail, EmailMessage)
    assert sorted(mail.keys()) == sorted(HEADERS)
    begun = name if len(name) <= 60 else name[:59] + "…"
    assert mail["Subject"] == f"[ontpush] stalled: {begun} (one)"
    assert f"Where: one\n       a/{name}\n" in content(mail, "plain")


@pytest.mark.newest
@pytest.mark.parametrize("name", ["", "The Lab ", '"The \\"Lab\\", Basel" ', "Läb =?utf-8?q?x?= "])
def test_a_sender_may_have_a_name(
    monitor: Program, root: Path, server: MailServer, name: str
) -> None:
    monitor.settings["mail_from"] = f"{name}<lab@example.org>"
    stalled(root, "one")
    ticked(monitor)
    (letter,) = server.letters
    mail = email.message_from_bytes(letter, policy=email.policy.default)
    assert str(mail["From"]).strip("<>") == f"{name}<lab@example.org>".strip("<>")
    assert mail["Message-ID"].endswith("@example.org>")


def test_what_would_be_another_header_than_was_meant_is_told_and_not_sent(
    monitor: Program, root: Path, server: MailServer
) -> None:
    server.answers["stalled"] = "451 later"
    stalled(root, "one", "two")
    assert monitor.run("monitor").code == 1
    server.answers.clear()
    outbox = monitor.state / "outbox.json"
    text = outbox.read_text()
    outbox.write_text(text.replace('["stalled"]', '["stalled\\nBcc: a@b"]', 1))
    complained(monitor, "no mail can be made of it", "given up", "stalled: b (one)")
    assert server.subjects() == ["stalled: b (two)"]


UNSEEN = [
    chr(each)
    for each in range(0x110000)
    if unicodedata.category(chr(each)) in ("Cc", "Cf", "Zl", "Zp")
]


@pytest.mark.newest
def test_what_turns_a_line_round_or_is_not_seen_is_shown_as_an_escape(
    monitor: Program, root: Path, mailbox: Mailbox
) -> None:
    words = ["".join(UNSEEN[start : start + 30]) for start in range(0, len(UNSEEN), 30)]
    runs = [{"run": f"a/{n}", "state": "failed", "error": each} for n, each in enumerate(words)]
    beat(root / "one", *runs, {"run": "a/b\u202egnp.\u200b\ufeff", "state": "stalled"})
    ticked(monitor)
    few, many = mailbox.mails()[::-1]
    assert few["Subject"] == "[ontpush] stalled: b\\u202egnp.\\u200b\\ufeff (one)"
    told = content(few, "plain") + content(many, "plain") + content(many, "html")
    shown = told + monitor.log_file.read_text() + monitor.run("status").out
    assert not [each for each in UNSEEN if each != "\n" and each in shown]
    assert "\\u202e" in content(many, "plain")


@pytest.mark.newest
def test_what_an_instrument_says_is_told_as_its_words(
    monitor: Program, root: Path, mailbox: Mailbox
) -> None:
    lie = 'all is well". To do: nothing'
    quote = 'one says: "all is well\'. To do: nothing"'
    for each in (
        {"state": "failed", "error": lie},
        {"state": "done", "warning": lie},
        {"state": "stalled", "warning": lie},
    ):
        beat(root / "one", {"run": "a/b", **each}, errors=[lie], unsent=[lie])
        ticked(monitor)
        assert lie not in monitor.run("status").out
    mails = mailbox.mails()
    assert {str(each["Subject"]).rpartition(": ")[2] for each in mails} == {"b (one)", "one"}
    for mail in mails:
        assert lie not in content(mail, "plain")
        assert quote in content(mail, "plain") or "stalled" in mail["Subject"]


# -- services for chats ------------------------------------------------------------------------


class Chat(BaseHTTPRequestHandler):
    """A service that takes texts by HTTP, up to a length; else `answer` is what it answers."""

    longest: ClassVar = 1 << 20
    answer: ClassVar = 413
    taken: ClassVar[list[dict[str, Any]]] = []

    def do_POST(self) -> None:
        said = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        fits = len(said.get("message", "")) <= self.longest
        self.send_response(200 if fits else self.answer)
        self.end_headers()
        self.wfile.write(b"ok")
        if fits:
            self.taken.append(said)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def chat(monitor: Program) -> Iterator[type[Chat]]:
    """A chat that is told everything, by the Apprise library itself."""
    monitor.python = sys.executable  # of .venv, where the library is
    monitor.environment["PYTHONWARNINGS"] = "ignore"  # the library's own
    fresh = type("Fresh", (Chat,), {"taken": []})
    with ThreadingHTTPServer(("127.0.0.1", 0), fresh) as server:
        monitor.settings["notify"] = [{"url": f"json://127.0.0.1:{server.server_port}/"}]
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield fresh
        server.shutdown()
        thread.join()


MARKUP = (
    "@everyone <!channel> [all is well](http://evil.org) <b>x</b> https://evil.org www.evil.org"
    " *x* `x` evil.org a@evil.org #x ~x ||x|| &lt;b&gt; ![](x) _x_ __x__ $$x$$ {{x}} \U0001f600.org"
)


@pytest.mark.parametrize("service", ["json://127.0.0.1:{}/", "mmost://127.0.0.1:{}/" + "a1" * 12])
def test_a_chat_shows_no_link_mention_or_markup_that_an_instrument_wrote(
    monitor: Program, root: Path, chat: type[Chat], service: str
) -> None:
    port = monitor.settings["notify"][0]["url"].rpartition(":")[2].strip("/")
    monitor.settings["notify"] = [{"url": service.format(port)}]
    name = MARKUP.replace("/", ":")
    markup = f"data_of_x {MARKUP}"
    beat(root / "one", {"run": f"a/{name}", "state": "failed", "error": markup}, errors=[markup])
    ticked(monitor)
    assert len(chat.taken) == 2
    for said in chat.taken:
        text = said.get("text") or said["title"] + said["message"]
        assert "everyone" in text
        text = text.replace("[ontpush] ", "")
        assert not re.search(r"[@<>\[\]*`~|&#${}]|://|\S[.][a-z]|\b_|_\b", text)
        assert "data_of_x" in text.replace("\\", "")


def test_a_text_that_is_longer_than_a_service_takes_comes_in_pieces(
    monitor: Program, root: Path, chat: type[Chat]
) -> None:
    chat.longest = 33_000
    runs = [{"run": f"a/r{n}", "state": "failed", "error": "\1" * 500} for n in range(300)]
    beat(root / "one", *runs)
    ticked(monitor)
    assert len(chat.taken) == 2
    text = "".join(said["message"] for said in chat.taken)
    assert "- r7 (one): " in text
    assert "'ontpush status' on the cluster shows the rest" in text
    ticked(monitor)
    assert len(chat.taken) == 2


@pytest.mark.parametrize("channels", ["%23lab", "%23lab/%23admin/%23all"])
def test_a_long_text_to_a_service_that_takes_little_and_seldom_is_told_once(
    monitor: Program, root: Path, chat: type[Chat], channels: str
) -> None:
    (monitor.modules / "sitecustomize.py").write_text(NO_WAITS)
    port = monitor.settings["notify"][0]["url"].rpartition(":")[2].strip("/")
    monitor.settings["notify"] = [{"url": f"rocket://a1/b2@127.0.0.1:{port}/{channels}"}]
    runs = [{"run": f"a/r{n}", "state": "failed", "error": "\1" * 500} for n in range(55)]
    beat(root / "one", *runs)
    ticked(monitor)
    assert "failed: 55 messages" in chat.taken[0]["text"]
    assert "'ontpush status' on the cluster shows the rest" in chat.taken[-1]["text"]
    count = len(chat.taken)
    # The monitor waits two minutes for a letter in hand.
    assert count * ROCKET_WAITS < 120
    ticked(monitor)
    assert len(chat.taken) == count


@pytest.mark.parametrize("code", [400, 413])
def test_what_a_service_refuses_for_good_is_given_up_aloud(
    monitor: Program, root: Path, chat: type[Chat], code: int
) -> None:
    chat.longest, chat.answer = 0, code
    stalled(root, "one")
    complained(
        monitor,
        f"json: the service did not take the message: it answered with {code}",
        "given up",
        "stalled: b (one)",
    )
    assert len(monitor.told("FAIL")) == 1
    chat.longest = 1 << 20
    ticked(monitor)
    assert chat.taken == []


@pytest.mark.parametrize("code", [401, 404, 429, 503])
def test_what_a_service_does_not_take_now_waits(
    monitor: Program, root: Path, chat: type[Chat], code: int
) -> None:
    chat.longest, chat.answer = 0, code
    stalled(root, "one")
    complained(monitor, f"it answered with {code}", "tried again")
    chat.longest = 1 << 20
    ticked(monitor)
    (said,) = chat.taken
    assert said["title"] == "[ontpush] stalled: b (one)"


# -- when it takes long ---------------------------------------------------------------------


def test_a_slow_mail_server_gets_each_mail_once(
    monitor: Program, root: Path, server: MailServer
) -> None:
    (monitor.modules / "sitecustomize.py").write_text(A_MINUTE_A_SECOND)
    server.slow = 0.4
    names = ["one", "two", "three", "four", "five"]
    stalled(root, *names)
    complained(monitor, "not everything could be told in time")
    told = server.subjects()
    assert 0 < len(told) < len(names)
    while len(told) < len(names):
        ticked(monitor)
        new = server.subjects()
        assert new
        told += new
    ticked(monitor)
    assert server.subjects() == []
    assert sorted(told) == sorted(f"stalled: b ({name})" for name in names)


def test_who_cannot_be_reached_for_long_is_complained_of_again(
    monitor: Program, root: Path, mailbox: Mailbox
) -> None:
    mailbox.stop()
    stalled(root, "one")
    complained(monitor, "notify[0]", "Connection refused")
    failed(root, "two")
    assert monitor.run("monitor").is_silent
    monitor.settings["silent_minutes"] = 10**6
    monitor.put_clock_forward(25 * HOUR)
    complained(monitor, "notify[0]", "Connection refused")
    assert monitor.run("monitor").is_silent
    mailbox.start()
    ticked(monitor)
    mailbox.stop()
    stalled(root, "two")
    complained(monitor, "notify[0]", "Connection refused")


@pytest.mark.newest
def test_what_nobody_takes_for_long_is_not_kept_for_ever_and_the_other_instruments_is(
    monitor: Program, root: Path, mailbox: Mailbox
) -> None:
    mailbox.stop()
    stalled(root, "two")
    assert monitor.run("monitor").code == 1
    for state in ("failed", "stalled"):
        runs = ({"run": f"a/r{n}", "state": state, "warning": "w" * n} for n in range(400))
        beat(root / "one", *runs)
        ran = monitor.run("monitor")
    given_up = "given up, since too much waits for who does not take it: the oldest 600 messages"
    assert f"{given_up} of one" in ran.err
    assert monitor.run("monitor").is_silent
    mailbox.start()
    ticked(monitor)
    subjects = mailbox.subjects()
    assert "stalled: b (two)" in subjects
    counts = [int(each.split()[-3]) for each in subjects if each.endswith(" messages (one)")]
    assert sum(counts) == 999
    ticked(monitor)
    assert mailbox.subjects() == []


@pytest.mark.newest
def test_one_whose_runs_all_fail_crowds_no_other_out_of_the_mails(
    monitor: Program, root: Path, mailbox: Mailbox
) -> None:
    beat(root / "a", *({"run": f"a/r{n}", "state": "failed", "error": "e"} for n in range(700)))
    failed(root, "b")
    ticked(monitor)
    other, many = sorted(mailbox.mails(), key=lambda each: len(each.as_bytes()))
    assert other["Subject"] == "[ontpush] failed: b (b)"
    assert many["Subject"] == "[ontpush] failed: 501 messages (a)"
    assert "a: it is the same with 200 more runs" in content(many, "plain")
    ticked(monitor)
    beat(root / "a", *({"run": f"a/r{n}", "state": "failed", "error": "e"} for n in range(1, 700)))
    ticked(monitor)
    subjects = mailbox.subjects()
    assert subjects[0] == "back to normal, was failed: r0 (a)"
    assert len(subjects) == 2
    assert subjects[1].startswith("failed: r")


# However long a tick reads, it tells when it has read all.
LOOKS_AT_ITS_END = """\
with open("/proc/self/cmdline", "rb") as file:
    words = file.read().split(b"\\0")
if b"monitor" in words:
    import ontpush.commands.monitor as monitor
    monitor._LOOK_AGAIN_SECONDS = 10**6
"""


def test_very_many_runs_that_are_verified_at_once_are_told_and_not_all_one_by_one(
    monitor: Program, gridion: Path, mailbox: Mailbox
) -> None:
    rollup = hashlib.md5(b"").hexdigest()
    for number in range(505):
        run = f"a/r{number}"
        (gridion / run / "pod5").mkdir(parents=True)
        (gridion / run / "md5sum").touch()
        done = f"2026-01-01T00:00:00+00:00\nrun: {run}\nrollup: {rollup}\n"
        (gridion / run / "rsync.done").write_text(done)
    beat(gridion)
    (monitor.modules / "sitecustomize.py").write_text(LOOKS_AT_ITS_END)
    ticked(monitor)
    (mail,) = mailbox.mails()
    assert mail["Subject"] == "[ontpush] verified: 501 messages (gridion)"
    assert "gridion: it is the same with 5 more runs" in content(mail, "plain")
    ticked(monitor)
    assert mailbox.subjects() == []


def test_one_whose_words_take_a_server_all_the_time_keeps_no_other_from_being_told(
    monitor: Program, root: Path, server: MailServer
) -> None:
    (monitor.modules / "sitecustomize.py").write_text(A_MINUTE_A_SECOND)
    server.slow = 1.1
    server.answers["EICAR"] = "451 later"
    names = ["evil", "one", "two", "three", "four", "five"]
    for name in names:
        failed(root, name, "EICAR" if name == "evil" else "it is broken")
    told: list[str] = []
    for _ in range(4):
        assert monitor.run("monitor").code in (0, 1)
        told += server.subjects()
    assert len(told) > 1


def test_one_that_has_much_to_tell_comes_after_those_that_have_little(
    monitor: Program, root: Path, server: MailServer
) -> None:
    beat(root / "a", *({"run": f"a/r{n}", "state": "failed", "error": "e"} for n in range(30)))
    failed(root, "b")
    stalled(root, "c")
    ticked(monitor)
    subjects = [subject for _, subject in server.taken]
    assert subjects == ["failed: b (b)", "stalled: b (c)", "failed: 30 messages (a)"]


@pytest.mark.newest
@pytest.mark.parametrize("answer", ["554 5.6.0 I do not like it", "451 later"])
def test_one_whose_words_no_server_takes_keeps_no_other_from_being_told(
    monitor: Program, root: Path, server: MailServer, answer: str
) -> None:
    server.answers["EICAR"] = answer
    failed(root, "evil", "EICAR")
    names = ["one", "two", "three", "four", "five", "six"]
    for name in names:
        failed(root, name)
    complained(monitor, answer, "b (evil)" if answer.startswith("5") else "")
    assert server.subjects() == sorted(f"failed: b ({name})" for name in names)
    assert monitor.run("monitor").is_silent


@pytest.mark.parametrize(("command", "code"), [("RCPT", 451), ("stalled", 451), ("RCPT", 550)])
def test_a_server_that_takes_nothing_now_is_not_asked_for_each_instrument(
    monitor: Program, root: Path, server: MailServer, command: str, code: int
) -> None:
    server.answers[command] = f"{code} greylisted, come again"
    names = [f"mk1c-{number}" for number in range(40)]
    stalled(root, *names)
    complained(monitor, "greylisted", "tried again")
    assert server.said.count("MAIL") <= 3
    server.answers.clear()
    ticked(monitor)
    assert server.subjects() == ["stalled: 40 messages"]


@pytest.mark.newest
def test_two_whose_words_a_server_puts_off_hold_the_others_up_for_one_tick(
    monitor: Program, root: Path, server: MailServer
) -> None:
    server.answers["EICAR"] = "451 later"
    failed(root, "a-evil", "EICAR")
    failed(root, "b-evil", "EICAR")
    names = ["one", "two", "three", "four", "five", "six"]
    for name in names:
        failed(root, name)
    complained(monitor, "451 later", "tried again")
    assert monitor.run("monitor").is_silent
    assert server.subjects() == sorted(f"failed: b ({name})" for name in names)


def test_the_outbox_stays_small_whatever_texts_an_instrument_sends(
    monitor: Program, root: Path, mailbox: Mailbox
) -> None:
    mailbox.stop()
    monitor.settings["notify"][0]["kinds"] = ["failed", "stalled", "counts"]
    long = "\U0001f600" * 600
    for state in ("failed", "stalled"):
        runs = [
            {"run": f"{long}/r{n}", "state": state, "error": long, "warning": long}
            for n in range(600)
        ]
        beat(root / "one", *runs)
        assert monitor.run("monitor").code in (0, 1)
    assert (monitor.state / "outbox.json").stat().st_size < 28 * MIB
    assert monitor.run("monitor").is_silent


# -- who is told ----------------------------------------------------------------------------


def test_what_waits_goes_to_the_notifier_whose_url_was_corrected(
    monitor: Program, root: Path, mailbox: Mailbox
) -> None:
    monitor.settings["notify"] = [
        {"url": "smtp://127.0.0.1:1/?to=lab@example.org", "kinds": ["stalled"]},
        {"url": "smtp://127.0.0.1:1/?to=lab@example.org,admin@example.org"},
    ]
    stalled(root, "one")
    assert monitor.run("monitor").code == 1
    monitor.settings["notify"] = [{"url": mailbox.url, "kinds": ["stalled"]}]
    ticked(monitor)
    ticked(monitor)
    assert mailbox.subjects() == ["stalled: b (one)"]


def test_what_somebody_was_told_is_not_told_again_when_another_is_taken_out(
    monitor: Program, root: Path, mailbox: Mailbox
) -> None:
    monitor.settings["notify"] = [{"url": mailbox.url}, {"url": "smtp://127.0.0.1:1/?to=a@b"}]
    stalled(root, "one")
    assert monitor.run("monitor").code == 1
    assert mailbox.subjects() == ["stalled: b (one)"]
    monitor.settings["notify"] = [{"url": mailbox.url}]
    ticked(monitor)
    other = mailbox.url.replace("lab@", "other@")
    monitor.settings["notify"] = [{"url": mailbox.url}, {"url": other}]
    ticked(monitor)
    assert mailbox.subjects() == []


@pytest.mark.newest
def test_who_is_named_twice_is_told_once_of_all_kinds_named(
    monitor: Program, root: Path, mailbox: Mailbox
) -> None:
    monitor.settings["notify"] = [
        {"url": mailbox.url, "kinds": ["stalled", "counts"]},
        {"url": mailbox.url, "kinds": ["stalled", "failed"]},
    ]
    stalled(root, "one")
    failed(root, "two")
    ticked(monitor)
    assert mailbox.subjects() == ["failed: b (two)", "stalled: b (one)"]


# -- once, also when a tick is killed or a disk is full ---------------------------------------


@contextlib.contextmanager
def small_disk(monitor: Program) -> Iterator[SmallDisk]:
    """The state directory on a disk of one MiB of its own."""
    monitor.state.mkdir()
    disk = SmallDisk(monitor.state, "1m")
    monitor.within = disk.within
    try:
        yield disk
    finally:
        monitor.within = []
        disk.end()


@pytest.mark.parametrize("pages", [2, 3, 5, 8])
def test_nothing_is_told_twice_while_the_disk_of_the_state_is_full(
    monitor: Program, root: Path, mailbox: Mailbox, pages: int
) -> None:
    monitor.settings["notify"] = [{"url": "smtp://127.0.0.1:1/?to=a@b"}, {"url": mailbox.url}]
    with small_disk(monitor) as disk:
        beat(root / "one", *({"run": f"x/y{n}", "state": "stalled"} for n in range(30)))
        mailbox.stop()
        assert monitor.run("monitor").code == 1
        mailbox.start()
        filler = disk.fill(pages)
        subjects = []
        for _ in range(3):
            ran = monitor.run("monitor")
            assert ran.code in (0, 75)
            subjects += mailbox.subjects()
        filler.unlink()
        ticked(monitor)
        assert subjects + mailbox.subjects() == ["stalled: 30 messages (one)"]


@pytest.mark.parametrize("pages", range(1, 9))
def test_what_could_not_be_written_down_is_told_once_when_there_is_room(
    monitor: Program, root: Path, mailbox: Mailbox, pages: int
) -> None:
    with small_disk(monitor) as disk:
        beat(root / "one")
        ticked(monitor)
        beat(root / "one", *({"run": f"x/y{n}", "state": "stalled"} for n in range(30)))
        filler = disk.fill(pages)
        for _ in range(3):
            assert monitor.run("monitor").code in (0, 75)
        filler.unlink()
        ticked(monitor)
        assert mailbox.subjects() == ["stalled: 30 messages (one)"]


def test_a_tick_that_is_killed_at_any_step_tells_everything_once(
    monitor: Program,
    zygote: Zygote,
    pushed: Path,
    root: Path,
    mailbox: Mailbox,
) -> None:
    monitor.settings["on_verified"] = ["exit 3"]
    stalled(root, "one")
    # Every third: each takes a second, and what happens in between is much alike.
    for step in range(1, 100, 3):
        words = [os.fsencode(word) for word in ("monitor", *monitor.configured())]
        crash = Crash(None, 0, step, orphans=False)
        ran = zygote.call(words, monitor.environment, str(monitor.home), crash=crash)
        if ran.code != CRASHED:
            break
        before = mailbox.subjects()
        monitor.run("monitor")
        after = mailbox.subjects()
        wanted = {f"hook failed: {pushed.name}", "stalled: b", f"verified: {pushed.name}"}
        # What was sent and could not be written down any more comes again.
        for subjects in (before, after):
            assert len(set(subjects)) == len(subjects)
        assert {each.partition(" (")[0] for each in before + after} == wanted
        shutil.rmtree(monitor.state)
        shutil.rmtree(monitor.temporary)
        monitor.temporary.mkdir()
        (pushed / "rsync.verified").unlink(missing_ok=True)
    assert step > 5


def test_a_hook_that_failed_is_told_once_while_others_are_at_work(
    monitor: Program,
    pushed: Path,
    mailbox: Mailbox,
    tmp_path: Path,
) -> None:
    os.mkfifo(tmp_path / "gate")
    monitor.settings["on_verified"] = ["exit 3", f"cat {tmp_path}/gate; exit 4"]
    with monitor.started("monitor", *monitor.configured()) as process:
        ended = '"ended"'
        files = monitor.state.glob
        wait_for(lambda: any(ended in each.read_text() for each in files("hooks/*.json")), "none")
        complained(monitor, "ended with 3")
        assert monitor.run("monitor").is_silent
        (tmp_path / "gate").write_text("")
        _, err = process.communicate()
    assert "ended with 4" in err.decode()
    assert "ended with 3" not in err.decode()
    assert monitor.run("monitor").is_silent
    subjects = [each for each in mailbox.subjects() if each.startswith("hook failed")]
    assert len(subjects) == 2


# -- what is told again, and what not -------------------------------------------------------


def test_a_disk_that_hovers_about_the_limit_is_told_once(
    monitor: Program, gridion: Path, mailbox: Mailbox
) -> None:
    monitor.settings["disk_percent"] = 95.95
    for free in (41, 40, 41, 40, 50, 40):
        beat(gridion, free_bytes=free, total_bytes=1000)
        ticked(monitor)
    assert mailbox.subjects() == ["disk filling: gridion"]
    beat(gridion, free_bytes=70, total_bytes=1000)
    ticked(monitor)
    assert mailbox.subjects() == ["back to normal, was disk filling: gridion"]


@pytest.mark.newest
def test_a_root_that_is_empty_all_at_once_ends_nothing(
    monitor: Program, gridion: Path, root: Path, mailbox: Mailbox
) -> None:
    stalled(root, "gridion")
    ticked(monitor)
    mailbox.mails()
    root.rename(root.with_name("unmounted"))
    root.mkdir()
    ran = monitor.run("monitor")
    assert ran.code == 69
    assert "is its disk mounted?" in ran.err
    root.rmdir()
    root.with_name("unmounted").rename(root)
    ticked(monitor)
    assert mailbox.subjects() == []


def test_a_root_where_nothing_has_come_yet_is_no_disk_that_is_gone(
    monitor: Program, mailbox: Mailbox
) -> None:
    monitor.settings["pull"] = [{"instrument": "mk1c", "source": "minit@mk1c.example.org:."}]
    ticked(monitor)
    monitor.put_clock_forward(2 * HOUR)
    ticked(monitor)
    assert mailbox.subjects() == ["silent: mk1c"]


def test_what_was_told_under_a_clock_years_ahead_is_told_again(
    monitor: Program, root: Path, mailbox: Mailbox
) -> None:
    monitor.settings["silent_minutes"] = 10**9
    stalled(root, "one")
    monitor.put_clock_forward(10 * 365 * 24 * HOUR)
    ticked(monitor)
    assert mailbox.subjects() == ["stalled: b (one)"]
    monitor.put_clock_forward(0)
    ticked(monitor)
    assert mailbox.subjects() == ["still stalled: b (one)"]
    ticked(monitor)
    assert mailbox.subjects() == []


FOREIGN: list[object] = [None, 7, -1, "x", "\ud800", [], {}, [7], [[]], {"a": 1}, 1e999]


@pytest.mark.parametrize("key", ["notices", "waiting", "complained"])
def test_an_outbox_that_somebody_else_wrote_is_lost_record_by_record(
    monitor: Program, root: Path, mailbox: Mailbox, key: str
) -> None:
    stalled(root, "one", "two")
    mailbox.stop()
    assert monitor.run("monitor").code == 1
    mailbox.start()
    path = monitor.state / "outbox.json"
    good = json.loads(path.read_text())
    for foreign in FOREIGN:
        path.write_text(json.dumps({**good, key: foreign}))
        ticked(monitor)
        mailbox.mails()
    first, *others = good[key]
    path.write_text(json.dumps({**good, key: [*_spoilt(first), *others]}))
    assert monitor.run("monitor").code in (0, 1)
    assert any("Where: two\n" in content(mail, "plain") for mail in mailbox.mails())
    assert monitor.run("monitor").is_silent


def _spoilt(record: Any) -> Iterator[object]:
    """A record with something foreign instead of each part of it, and of all of it."""
    yield from FOREIGN
    for place in record if isinstance(record, dict) else range(len(record)):
        inner = record[place]
        for part in _spoilt(inner) if isinstance(inner, (dict, list)) else FOREIGN:
            copy = record.copy()
            copy[place] = part
            yield copy


# -- the same failure, in other words -----------------------------------------------------------

SAME = [
    (
        'rsync: [receiver] mkstemp "/data/r/pod5/.reads one.pod5.Ab3dEf" failed: No such file (2)',
        'rsync: [receiver] mkstemp "/data/r/pod5/.reads one.pod5.xY7zZ9" failed: No such file (2)',
    ),
    (
        "took longer than 45 s, 999 kB sent by process 4711",
        "took longer than 2 h 3 min, 1.2 GB sent by process 17",
    ),
    ("no space left: 1,024 bytes in [31337]", "no space left: 7 bytes in [1]"),
]
OTHER = [
    (
        'write failed on "/data/r/.reads_1.pod5.Ab3dEf"',
        'write failed on "/data/r/.reads_2.pod5.Ab3dEf"',
    ),
    ("reads_1.pod5: Permission denied", "reads_2.pod5: Permission denied"),
    ("a.pod5: Permission denied", "a.pod5: No space left on device"),
]


@pytest.mark.newest
@pytest.mark.parametrize(("first", "second"), SAME)
def test_a_failure_that_only_names_another_temporary_file_or_number_is_told_once(
    monitor: Program, root: Path, mailbox: Mailbox, first: str, second: str
) -> None:
    for each in (first, second):
        failed(root, "gridion", each)
        beat(root / "mk1c", errors=[each])
        ticked(monitor)
    assert mailbox.subjects() == ["failed: b (gridion)", "failed: mk1c"]


def test_what_an_older_version_has_told_is_not_told_again_after_an_upgrade(
    monitor: Program, root: Path, mailbox: Mailbox
) -> None:
    failed(root, "one")
    ticked(monitor)
    assert mailbox.subjects() == ["failed: b (one)"]
    outbox = json.loads((monitor.state / "outbox.json").read_text())
    (notice,) = outbox["notices"]
    notice["same"] = "it is broken"
    (monitor.state / "outbox.json").write_text(json.dumps(outbox))
    ticked(monitor)
    assert mailbox.subjects() == []


def test_of_what_an_older_version_has_told_one_by_one_nothing_ends_at_an_upgrade(
    monitor: Program, root: Path, mailbox: Mailbox
) -> None:
    runs = [{"run": f"a/r{number}", "state": "stalled"} for number in range(700)]
    beat(root / "one", *runs)
    ticked(monitor)
    assert mailbox.subjects() == ["stalled: 501 messages (one)"]
    outbox = json.loads((monitor.state / "outbox.json").read_text())
    told = next(each for each in outbox["notices"] if each["run"])
    outbox["notices"] = [dict(told, run=run["run"]) for run in runs]
    (monitor.state / "outbox.json").write_text(json.dumps(outbox))
    ticked(monitor)
    beat(root / "one", *runs[1:])
    ticked(monitor)
    assert mailbox.subjects() == ["back to normal, was stalled: r0 (one)"]
    beat(root / "one")
    ticked(monitor)
    assert mailbox.subjects() == ["back to normal, was stalled: 501 messages (one)"]
    ticked(monitor)
    assert mailbox.subjects() == []


@pytest.mark.newest
def test_that_no_more_runs_are_alike_than_are_told_one_by_one_is_no_end(
    monitor: Program, root: Path, mailbox: Mailbox
) -> None:
    runs = [{"run": f"a/r{number:03d}", "state": "stalled"} for number in range(501)]
    beat(root / "one", *runs)
    ticked(monitor)
    assert mailbox.subjects() == ["stalled: 501 messages (one)"]
    beat(root / "one", *runs[1:])
    ticked(monitor)
    subjects = ["back to normal, was stalled: r000 (one)", "stalled: r500 (one)"]
    assert mailbox.subjects() == subjects
    beat(root / "one", errors=["it is broken"])
    ticked(monitor)
    subjects = ["back to normal, was stalled: 500 messages (one)", "failed: one"]
    assert mailbox.subjects() == subjects


@pytest.mark.newest
def test_trouble_of_a_whole_instrument_ends_aloud_while_runs_of_it_still_fail(
    monitor: Program, root: Path, mailbox: Mailbox
) -> None:
    run = {"run": "a/b", "state": "failed", "error": "e"}
    beat(root / "one", run, errors=["it is broken"])
    ticked(monitor)
    beat(root / "one", run)
    ticked(monitor)
    subjects = ["back to normal, was failed: one", "failed: b (one)", "failed: one"]
    assert mailbox.subjects() == subjects


@pytest.mark.parametrize(("first", "second"), OTHER)
def test_a_failure_of_another_file_or_kind_is_told_as_changed(
    monitor: Program, root: Path, mailbox: Mailbox, first: str, second: str
) -> None:
    for each in (first, second):
        failed(root, "gridion", each)
        ticked(monitor)
    assert mailbox.subjects() == ["changed: failed: b (gridion)", "failed: b (gridion)"]


def test_words_made_to_be_hard_to_read_hold_up_no_tick(
    monitor: Program, root: Path, mailbox: Mailbox
) -> None:
    # Seven minutes of work, if each beginning of a name is followed to the end of the text.
    beat(
        root / "evil",
        *({"run": f"a/r{n}", "state": "failed", "error": " ." * 1000} for n in range(3500)),
    )
    failed(root, "one")
    ticked(monitor)
    assert mailbox.subjects() == ["failed: 501 messages (evil)", "failed: b (one)"]
