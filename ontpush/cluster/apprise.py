"""Sends letters by whatever service the Apprise library speaks to, where it is installed."""

import logging
import re
from typing import Any

from ontpush.cluster.letter import Letter
from ontpush.cluster.mail import NotTold, Refused
from ontpush.facts import limits

# What Apprise escapes differs by service and version, and none takes a mention for text. So what
# would make markup, a mention or a link of a name becomes a character that looks like it.
_LOOK_ALIKES = str.maketrans("@<>[]{}*`~|&#$", "＠‹›［］｛｝＊'～｜＆＃＄")  # noqa: RUF001 - these are meant
_SCHEME = re.compile("://")
_DOMAIN = re.compile(r"(?<=\S)[.\u3002\uff0e\uff61](?=[^\W\d_])")
_ONE_DOT_LEADER = "\u2024"
# One between letters or figures is nothing but itself.
_EMPHASIS = re.compile(r"(?<![^\W_])_+|_+(?![^\W_])")
# Apprise waits between the pieces of a text, and we for a letter in hand for two minutes. Escapes
# and the ends of lines may make four of what would be one piece.
_FOR_PIECES = 30.0  # seconds
_FOR_A_PIECE = 1.0  # seconds, where Apprise itself waits for less
_CUT = "\n[...] `ontpush status` on the cluster shows the rest."
# So Apprise writes into its log what a service answered.
_ANSWER = re.compile(r"\berror=(\d{3})\b")
# Of the answers of HTTP those that are about this letter, and for good.
_FOR_GOOD = frozenset(["400", "413", "414", "422"])


def can_send(url: str) -> str:
    """What keeps a URL from being used; empty where nothing does."""
    library = _library()
    if library is None:
        return "needs the Python package apprise here: pip install --user apprise"
    if not library.Apprise().add(url):
        return "is no URL that the Apprise library knows"
    return ""


def send_by_apprise(url: str, letter: Letter) -> None:
    """Hand a letter to the service, in pieces where it is too long for that. NotTold, Refused."""
    library = _library()
    sender = library.Apprise() if library else None
    if sender is None or not sender.add(url):
        raise NotTold(can_send(url))
    for service in sender:
        service.overflow_mode = library.OverflowMode.SPLIT
    longest = min(_longest(service) for service in sender)
    title, text = f"[ontpush] {_plain(letter.subject)}", _plain(_cut(letter.text, longest))
    result = sender.notify(title=title, body=text, body_format=library.NotifyFormat.TEXT)
    if not result:
        kind = Refused if _answer(result) in _FOR_GOOD else NotTold
        scheme, answer = url.partition(":")[0], _answer(result)
        why = f": it answered with {answer}" if answer else ""
        raise kind(f"{scheme}: the service did not take the message{why}")


def _answer(result: Any) -> str:
    """The code of an answer to the last try; empty where Apprise, an older one, keeps none.

    No more of what it logged: that may hold what is secret in a URL.
    """
    logs = result.logs() if hasattr(result, "logs") else ()
    codes = [code for each in logs for code in _ANSWER.findall(each.message)]
    return codes[-1] if codes else ""


def _longest(service: Any) -> int:
    """The characters that a service takes in time, each piece once for every target of its URL."""
    targets = len(service) if hasattr(service, "__len__") else 1  # an older one tells of none
    seconds = max(service.request_rate_per_sec, _FOR_A_PIECE) * max(1, targets)
    pieces = max(1, int(_FOR_PIECES / seconds))
    return min(limits.LONGEST_CHAT, pieces * int(service.body_maxlen))


def _cut(text: str, longest: int) -> str:
    """A chat is buried by a text that is split into hundreds."""
    return text if len(text) <= longest else text[:longest] + _CUT


def _plain(text: str) -> str:
    """A text that no service takes for more than text."""
    plain = _SCHEME.sub(": //", text.translate(_LOOK_ALIKES))
    plain = _EMPHASIS.sub(lambda found: "\uff3f" * len(found.group()), plain)
    return _DOMAIN.sub(_ONE_DOT_LEADER, plain)


def _library() -> Any:
    try:
        import apprise
    except ImportError:
        return None
    # What it has to say of trouble would go to standard error, past our one line.
    logging.getLogger("apprise").addHandler(logging.NullHandler())
    logging.getLogger("apprise").propagate = False
    return apprise
