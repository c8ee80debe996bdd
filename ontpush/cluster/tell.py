"""Brings messages to everybody who takes them, as far as it goes now.

Notifiers work side by side, each in a thread of its own: none holds up another. No letter is begun
when their time is over; the one in hand is waited for, since it may arrive whatever we do.
"""

import threading
import time
from typing import Any, Dict, FrozenSet, Iterable, List, Mapping, NamedTuple, Optional, Tuple

from ontpush.cluster.apprise import can_send, send_by_apprise
from ontpush.cluster.letter import Letter, by_instrument, letters
from ontpush.cluster.mail import (
    MailServer,
    NotTold,
    OutOfService,
    Refused,
    default_sender,
    parse_mail_url,
    send_mail,
)
from ontpush.cluster.messages import Message
from ontpush.engine.sums import md5_of_text
from ontpush.facts.names import shown
from ontpush.facts.trouble import BadConfiguration
from ontpush.facts.words import KINDS

_PATIENCE = 60.0  # seconds in which all notifiers together may begin letters
_IN_HAND = 120.0  # more for the letters in hand
_TOO_LATE = "not everything could be told in time"


class Notifier(NamedTuple):
    """Somebody who is told: one service, or one reader of mail by a `server`.

    `name` is the place in the configuration, `id` how we know it from tick to tick.
    """

    id: str
    name: str
    url: str
    server: Optional[MailServer]
    sender: str
    kinds: FrozenSet[str]


class Try(NamedTuple):
    """A letter that was tried, the messages that it tells, and what kept it from going out."""

    letter: Letter
    messages: List[Message]
    fault: Optional[NotTold]

    @property
    def is_last(self) -> bool:
        """Whether the letter needs no other try: it went out, or never will."""
        return self.fault is None or isinstance(self.fault, Refused)


class Outcome(NamedTuple):
    """What came of one notifier; `trouble` where something of it waits for the next tick."""

    notifier: Notifier
    tries: List[Try]
    trouble: str


def make_notifiers(settings: Mapping[str, Any]) -> List[Notifier]:
    """Everybody that the configuration names; BadConfiguration names every URL that cannot be.

    Each reader of a mail is one, since a server may take mail for some and not for others. Who is
    named twice takes the kinds of both.
    """
    found: Dict[str, Notifier] = {}
    faults = []
    sender = settings["mail_from"] or default_sender()
    for number, each in enumerate(settings["notify"]):
        place, url = f"notify[{number}]", each["url"]
        kinds = frozenset(each.get("kinds") or KINDS)
        try:
            server = parse_mail_url(url)
            fault = "" if server else can_send(url)
        except ValueError as error:
            server, fault = None, str(error)
        if fault:
            faults.append(f"{place}.url: {fault}")
        for notifier in _named(place, url, server, sender, kinds):
            before = found.get(notifier.id, notifier)
            found[notifier.id] = before._replace(kinds=before.kinds | kinds)
    if faults:
        raise BadConfiguration(*faults)
    return list(found.values())


def _named(
    place: str, url: str, server: Optional[MailServer], sender: str, kinds: FrozenSet[str]
) -> Iterable[Notifier]:
    """Everybody that one URL names."""
    if server is None:
        yield Notifier(_id(url), place, url, None, sender, kinds)
        return
    for reader in server.to:
        name = f"{place} {reader}" if len(server.to) > 1 else place
        own = server._replace(to=(reader,))
        yield Notifier(_id(repr(own)), name, url, own, sender, kinds)


def _id(text: str) -> str:
    """A URL may be a secret."""
    return md5_of_text(text)[:12]


def tell(waiting: Iterable[Tuple[Notifier, List[Message]]]) -> List[Outcome]:
    """Tell all that waits, as far as it goes now: what came of each who has something waiting."""
    until = time.monotonic() + _PATIENCE
    workers = [_Worker(notifier, messages) for notifier, messages in waiting if messages]
    for worker in workers:
        threading.Thread(target=worker.work, args=(until,), daemon=True).start()
    for worker in workers:
        worker.ended.wait(max(0.0, until + _IN_HAND - time.monotonic()))
    return [worker.outcome() for worker in workers]


class _Worker:
    """One notifier at work on the messages that wait for it."""

    def __init__(self, notifier: Notifier, messages: List[Message]) -> None:
        self._notifier = notifier
        self._messages = messages
        self._tries: List[Try] = []
        self._trouble = "no answer in time"
        self.ended = threading.Event()

    def work(self, until: float) -> None:
        """Send letter after letter; one that does not go keeps none behind it from going."""
        faults = (str(each.fault) for each in self._tries if not each.is_last)
        self._trouble = self._stopped(until) or next(faults, "")
        self.ended.set()

    def _stopped(self, until: float) -> str:
        """Send all letters: what stopped it before the last; empty where nothing did."""
        for letter, messages in letters(self._messages):
            if time.monotonic() > until:
                return _TOO_LATE
            fault = _fault_of(self._notifier, letter)
            if isinstance(fault, OutOfService):
                return str(fault)
            shares = by_instrument(messages)
            if fault is None or len(shares) == 1:
                self._tries.append(Try(letter, messages, fault))
                continue
            stopped = self._stopped_in(shares, until)
            if stopped:
                return stopped
        return ""

    def _stopped_in(self, shares: List[List[Message]], until: float) -> str:
        """Send of a letter that did not go a letter for each instrument: what stopped it.

        Words of one that nobody takes keep back nothing that is told of another; so the first goes
        whatever time it is. Where those of two are put off, it is for no words: the rest waits, in
        front of them.
        """
        put_off = set()
        own = [each for share in shares for each in letters(share)]
        for number, (letter, messages) in enumerate(own):
            if number and time.monotonic() > until:
                return _TOO_LATE
            fault = _fault_of(self._notifier, letter)
            if isinstance(fault, OutOfService):
                return str(fault)
            self._tries.append(Try(letter, messages, fault))
            if not self._tries[-1].is_last:
                put_off.add(messages[0].instrument)
            if len(put_off) > 1:
                break
        return ""

    def outcome(self) -> Outcome:
        """What has come of it so far."""
        return Outcome(self._notifier, list(self._tries), self._trouble)


def _fault_of(notifier: Notifier, letter: Letter) -> Optional[NotTold]:
    """Send a letter: what kept it from going out, if anything did."""
    try:
        if notifier.server:
            send_mail(notifier.server, notifier.sender, letter)
        else:
            send_by_apprise(notifier.url, letter)
    except NotTold as fault:
        return fault
    except Exception as error:  # noqa: BLE001 - a library of others, or what it loads
        return NotTold(shown(f"{type(error).__name__}: {error}".encode("utf-8", "replace")))
    return None
