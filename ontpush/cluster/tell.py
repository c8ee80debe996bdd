"""Brings messages to everybody who takes them; what does not go waits for the next tick.

Notifiers work side by side, each in a thread that is left behind when its time is over: none
holds up another, or the tick.
"""

import os
import threading
import time
from typing import Any, FrozenSet, Iterable, List, Mapping, NamedTuple, Optional, Set

from ontpush.cluster.apprise import can_send, send_by_apprise
from ontpush.cluster.letter import Letter, letters
from ontpush.cluster.mail import NotTold, default_sender, parse_mail_url, send_mail
from ontpush.cluster.memory import read_json, write_json
from ontpush.cluster.messages import Message, from_json, to_json
from ontpush.engine.sums import new_md5
from ontpush.facts.trouble import BadConfiguration
from ontpush.facts.words import KINDS

_FILE = b"outbox.json"
_PATIENCE = 60.0  # seconds that all notifiers together may take in one go
_KEPT = 1000  # messages that wait for one notifier


class Notifier(NamedTuple):
    """Somebody who is told: `name` is its place in the configuration, `id` how we know it."""

    id: str
    name: str
    url: str
    sender: str
    kinds: FrozenSet[str]


class Waiting(NamedTuple):
    """A message for one notifier, and how often it could not be told."""

    to: str
    message: Message
    tries: int


def make_notifiers(settings: Mapping[str, Any]) -> List[Notifier]:
    """Everybody that the configuration names; BadConfiguration names every URL that cannot be."""
    found, faults = [], []
    sender = settings["mail_from"] or default_sender()
    for number, each in enumerate(settings["notify"]):
        place, url = f"notify[{number}]", each["url"]
        try:
            fault = "" if parse_mail_url(url) else can_send(url)
        except ValueError as error:
            fault = str(error)
        if fault:
            faults.append(f"{place}.url: {fault}")
        # The URL itself may be a secret.
        name = new_md5(url.encode("utf-8", "surrogateescape")).hexdigest()[:12]
        found.append(Notifier(name, place, url, sender, frozenset(each.get("kinds") or KINDS)))
    if faults:
        raise BadConfiguration(*faults)
    return found


class Outbox:
    """Messages on their way, in a file of the state directory."""

    def __init__(self, state: bytes, notifiers: List[Notifier]) -> None:
        self._path = os.path.join(state, _FILE)
        self._notifiers = notifiers
        known = {each.id for each in notifiers}
        self._waiting = [each for each in self._load() if each.to in known]

    def _load(self) -> List[Waiting]:
        listed = read_json(self._path).get("waiting", [])
        try:
            return [Waiting(each[0], from_json(each[1]), each[2]) for each in listed]
        except (TypeError, ValueError, KeyError, IndexError):
            return []

    def add(self, messages: Iterable[Message]) -> None:
        """Put messages in, for everybody who takes them, and write it down. TryLater."""
        before = len(self._waiting)
        for message in messages:
            for notifier in self._notifiers:
                if notifier.kinds & set(message.kinds):
                    self._waiting.append(Waiting(notifier.id, message, 0))
        if len(self._waiting) != before:
            self._save()

    def _save(self) -> None:
        listed = [[each.to, to_json(each.message), each.tries] for each in self._waiting]
        write_json(self._path, {"waiting": listed})

    def deliver(self) -> "List[Outcome]":
        """Tell all that waits, as far as it goes now: what came of each notifier. TryLater."""
        outcomes = [Outcome(each, self._for(each)) for each in self._notifiers]
        outcomes = [each for each in outcomes if each.waiting]
        threads = [threading.Thread(target=each.work, daemon=True) for each in outcomes]
        for thread in threads:
            thread.start()
        until = time.monotonic() + _PATIENCE
        for outcome in outcomes:
            outcome.ended.wait(max(0.0, until - time.monotonic()))
        if outcomes:
            self._waiting = [kept for each in outcomes for kept in each.left()]
            self._save()
        return outcomes

    def _for(self, notifier: Notifier) -> List[Waiting]:
        # The newest matter most to whoever has not been reached for long.
        return [each for each in self._waiting if each.to == notifier.id][-_KEPT:]


class Outcome:
    """One notifier at work on the messages that wait for it."""

    def __init__(self, notifier: Notifier, waiting: List[Waiting]) -> None:
        self.notifier = notifier
        self.waiting = waiting
        self.told: List[Letter] = []
        self.trouble: Optional[str] = "no answer in time"
        self.ended = threading.Event()
        self._sent: Set[int] = set()

    def work(self) -> None:
        """Send letter after letter; the first that does not go ends it for now."""
        try:
            for letter, places in letters([each.message for each in self.waiting]):
                _send(self.notifier, letter)
                self._sent.update(places)
                self.told.append(letter)
            self.trouble = None
        except NotTold as error:
            self.trouble = str(error)
        except Exception as error:  # noqa: BLE001 - a library of others, or what it loads
            self.trouble = f"{type(error).__name__}: {error}"
        self.ended.set()

    def left(self) -> List[Waiting]:
        """What has not been told."""
        sent = set(self._sent)
        return [
            each._replace(tries=each.tries + 1)
            for place, each in enumerate(self.waiting)
            if place not in sent
        ]

    @property
    def is_first_failure(self) -> bool:
        """Whether what did not go had not been tried before."""
        return self.trouble is not None and any(each.tries == 1 for each in self.left())


def _send(notifier: Notifier, letter: Letter) -> None:
    server = parse_mail_url(notifier.url)
    if server:
        send_mail(server, notifier.sender, letter)
    else:
        send_by_apprise(notifier.url, letter)
