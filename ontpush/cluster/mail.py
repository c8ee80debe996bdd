"""Sends letters by mail, with the standard library alone.

`mailto:WHO@WHERE` goes through the mail server of this host; `smtp://[USER@]HOST[:PORT]/?to=…`
through another, `smtps://` the same in TLS from the start. A password is taken from the file
that `password_file=` names, so that the configuration holds no secret, and never sent in clear.
"""

import contextlib
import email.policy
import getpass
import re
import smtplib
import socket
import ssl
from email.header import Header
from email.message import EmailMessage
from email.utils import formatdate, make_msgid, parseaddr, quote
from typing import Dict, FrozenSet, Iterator, List, NamedTuple, Optional, Tuple, Type, Union
from urllib.parse import parse_qs, unquote, urlsplit

from ontpush.cluster.letter import Letter
from ontpush.facts.names import shortened, shown

_TIMEOUT = 20.0  # seconds until a mail server answers at all
# A letter that is given up while the server still thinks about it may arrive, and be sent again.
_ANSWER = 60.0  # seconds until it has dealt with what it was given
_BODY = email.policy.SMTP.clone(max_line_length=200)
_OF_BODY = ("MIME-Version", "Content-Type")
# What a server is asked for that has to deal with addresses beyond ASCII.
_BEYOND_ASCII = ["SMTPUTF8", "BODY=8BITMIME"]
_PORTS = {"smtp": 25, "smtps": 465}
# Of the enhanced status codes (RFC 3463) those that are about this reader or this letter, and for
# good: no such address, too large, content. All others are about the server, its rules, or us.
_STATUS = re.compile(r"(?:\A|#)([245]\.\d{1,3}\.\d{1,3})\b")
_STATUS_FOR_GOOD = re.compile(r"5\.(?:1\.(?:1|2|3|6|10)|2\.3|3\.4|6\.\d+)\Z")
_TOO_LARGE = re.compile(r"5\.(?:2\.3|3\.4)\Z")
# Of the codes without one (RFC 5321) those that are so where they are given; for the reader only
# where the text speaks of no such mailbox: many servers say the same of relaying and of senders.
_CODES_FOR_GOOD: Dict[Type[Exception], FrozenSet[int]] = {
    smtplib.SMTPSenderRefused: frozenset([552]),
    smtplib.SMTPRecipientsRefused: frozenset([550, 551, 553]),
    smtplib.SMTPDataError: frozenset([550, 552, 554]),
}
_NO_SUCH_READER = re.compile(
    r"\A(?!.*(?:sender|relay|verif)).*(?:"
    r"\b(?:no such|unknown|invalid) (?:user|mailbox|recipient|account)\b"
    r"|\b(?:user|mailbox|recipient|account)(?: \S+@\S+)? (?:is )?"
    r"(?:unknown|not found|does not exist)\b"
    r"|\bno mailbox\b|\bunrouteable address\b)",
    re.IGNORECASE,
)


class NotTold(Exception):
    """A letter did not go out, and may do so another time; the message says why."""


class OutOfService(NotTold):
    """No letter can go out now."""


class Refused(NotTold):
    """This letter never goes out."""


class MailServer(NamedTuple):
    """Where mail goes and to whom; `encrypted` from the start."""

    host: str
    port: int
    encrypted: bool
    user: str
    password_file: str
    to: Tuple[str, ...]


def parse_mail_url(url: str) -> Optional[MailServer]:
    """The mail server and readers that a URL means; None for no URL of ours. ValueError."""
    parts = urlsplit(url)
    if parts.scheme == "mailto" and not url.startswith("mailto://"):
        return _checked(MailServer("localhost", 25, False, "", "", _readers([parts.path])))
    if parts.scheme not in _PORTS:
        return None
    query: Dict[str, List[str]] = parse_qs(parts.query, strict_parsing=bool(parts.query))
    unknown = sorted(set(query) - {"to", "password_file"})
    if unknown:
        raise ValueError(f"knows no {unknown[0]!r}: to and password_file are all")
    if parts.password is not None:
        raise ValueError("holds a password: put it in a file and name that with password_file=")
    server = MailServer(
        parts.hostname or "",
        parts.port or _PORTS[parts.scheme],
        parts.scheme == "smtps",
        unquote(parts.username or ""),
        query.get("password_file", [""])[0],
        _readers(query.get("to", [])),
    )
    return _checked(server)


def _readers(texts: List[str]) -> Tuple[str, ...]:
    return tuple(each.strip() for text in texts for each in text.split(",") if each.strip())


def _checked(server: MailServer) -> MailServer:
    if not server.host:
        raise ValueError("names no host")
    if not server.to or not all("@" in each and each.isprintable() for each in server.to):
        raise ValueError("names nobody to write to: add ?to=WHO@WHERE")
    if bool(server.user) != bool(server.password_file):
        raise ValueError("needs both a user and password_file=, or neither")
    return server


def default_sender() -> str:
    """This user at this host."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):
        user = "ontpush"
    return f"{user}@{socket.gethostname()}"


def send_mail(server: MailServer, sender: str, letter: Letter) -> None:
    """Hand a letter for one reader to the mail server. NotTold, OutOfService, Refused."""
    try:
        message = _compose(server, sender, letter)
    except ValueError as error:
        raise Refused(f"no mail can be made of it: {error}") from error
    with _connected(server) as connection, _told(server):
        connection.sendmail(sender, list(server.to), message, _options(server, sender))


def probe_mail_server(server: MailServer, sender: str) -> None:
    """Go as far as a mail for one reader would, and send none. NotTold."""
    with _connected(server) as connection, _told(server):
        for code, text in (
            connection.mail(sender, _options(server, sender)),
            connection.rcpt(*server.to),
        ):
            if code >= 400:
                raise smtplib.SMTPResponseException(code, text)
        connection.rset()


def _options(server: MailServer, sender: str) -> List[str]:
    addresses = [parseaddr(sender)[1], *server.to]
    return [] if all(map(_is_ascii, addresses)) else _BEYOND_ASCII


def _compose(server: MailServer, sender: str, letter: Letter) -> bytes:
    """The letter as it goes over the wire. ValueError.

    Python's own headers take a text that looks like an encoded one for what it then means, line
    ends and all: what a stranger called a run would become headers. So these are made here.
    """
    name, address = parseaddr(sender)
    called = f'"{quote(name)}"' if _is_ascii(name) else _encoded(name)
    headers = {
        "From": f"{called} <{address}>" if name else address,
        "To": ", ".join(server.to),
        "Subject": _encoded(f"[ontpush] {letter.subject}"),
        "Date": formatdate(),
        "Message-ID": make_msgid(domain=address.rpartition("@")[2] or "localhost"),
        "Auto-Submitted": "auto-generated",
        "X-Ontpush-Kind": letter.kind,
    }
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    mail = lines.encode("utf-8" if _options(server, sender) else "ascii") + _body(letter)
    _check_headers(mail, [*headers, *_OF_BODY])
    return mail


def _encoded(text: str) -> str:
    """A text as it stands in a header; one that could be taken for an encoded one is encoded.

    Folded only where it has to be: some readers show a space at a fold.
    """
    if _is_ascii(text) and "=?" not in text:
        return text
    return Header(text, "utf-8", header_name="Subject").encode(linesep="\r\n")


def _is_ascii(text: str) -> bool:
    return not text.encode("utf-8", "surrogatepass").translate(None, bytes(range(128)))


def _body(letter: Letter) -> bytes:
    """Both texts, and the headers that tell how they are to be read."""
    message = EmailMessage(policy=_BODY)
    # A mail server refuses lines of more than 998 characters, and Python 3.6 breaks none by itself.
    message.set_content(letter.text, cte="quoted-printable")
    message.add_alternative(letter.html, subtype="html", cte="quoted-printable")
    return message.as_bytes()


def _check_headers(mail: bytes, names: List[str]) -> None:
    """ValueError where a mail has other headers than these, or a control character in one."""
    head, _, _ = mail.partition(b"\r\n\r\n")
    lines = head.replace(b"\r\n ", b" ").split(b"\r\n")
    found = [line.partition(b": ")[0].decode("ascii", "replace") for line in lines]
    if sorted(found) != sorted(names) or re.search(rb"[\x00-\x1f\x7f]", b"".join(lines)):
        raise ValueError("its headers would not be those that were meant")


@contextlib.contextmanager
def _connected(server: MailServer) -> Iterator[smtplib.SMTP]:
    """A mail server that takes mail. OutOfService."""
    try:
        connection = _connect(server)
    except (OSError, smtplib.SMTPException, ValueError) as error:
        raise OutOfService(_blamed(server, error)) from error
    with contextlib.closing(connection):
        yield connection
        # It has the mail: how it says good-bye changes nothing.
        with contextlib.suppress(OSError, smtplib.SMTPException):
            connection.quit()


def _connect(server: MailServer) -> smtplib.SMTP:
    tls = ssl.create_default_context()
    if server.encrypted:
        connection: smtplib.SMTP = smtplib.SMTP_SSL(
            server.host, server.port, timeout=_TIMEOUT, context=tls
        )
    else:
        connection = smtplib.SMTP(server.host, server.port, timeout=_TIMEOUT)
    try:
        if server.user:
            if not server.encrypted:
                connection.starttls(context=tls)
            with open(server.password_file, encoding="utf-8") as file:
                connection.login(server.user, file.read().strip())
        connection.ehlo_or_helo_if_needed()
        if connection.sock is not None:
            connection.sock.settimeout(_ANSWER)
    except BaseException:
        connection.close()
        raise
    return connection


@contextlib.contextmanager
def _told(server: MailServer) -> Iterator[None]:
    """What the server says of a letter. NotTold; Refused where its answer is for good."""
    try:
        yield
    except (OSError, smtplib.SMTPException, ValueError) as error:
        kind = Refused if _is_for_good(error) else NotTold
        raise kind(_blamed(server, error)) from error


def _is_for_good(error: Exception) -> bool:
    """Whether no server would ever take this letter for this reader; the code alone is vague."""
    code, text = _answer(error)
    status = _STATUS.search(text)
    if status:
        of_sender = isinstance(error, smtplib.SMTPSenderRefused)
        for_good = _TOO_LARGE if of_sender else _STATUS_FOR_GOOD
        return 500 <= code < 600 and bool(for_good.match(status.group(1)))
    if isinstance(error, smtplib.SMTPRecipientsRefused) and not _NO_SUCH_READER.match(text):
        return False
    return code in _CODES_FOR_GOOD.get(type(error), ())


def _blamed(server: MailServer, error: Exception) -> str:
    return f"mail by {server.host}:{server.port}: {_reason(error)}"


def _answer(error: Exception) -> Tuple[int, str]:
    """The code and text of a server's answer; 0 where it gave none."""
    if isinstance(error, smtplib.SMTPRecipientsRefused):
        ((code, text),) = error.recipients.values()
        return code, _one_line(text)
    if isinstance(error, smtplib.SMTPResponseException):
        return error.smtp_code, _one_line(error.smtp_error)
    return 0, ""


def _one_line(text: Union[bytes, str]) -> str:
    encoded = text.encode() if isinstance(text, str) else text
    return shortened(shown(b" ".join(encoded.split())))


def _reason(error: Exception) -> str:
    code, text = _answer(error)
    if code:
        return f"{code} {text}"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return " ".join(str(error).split()) or type(error).__name__
