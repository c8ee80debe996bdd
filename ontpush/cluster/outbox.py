"""What has been told, and what is still on its way, in one file of the state directory.

One rename changes both: a tick that is killed, or a full disk, never has one without the other.
"""

import json
import os
import time
from collections import Counter, deque
from typing import Any, Callable, Deque, Dict, FrozenSet, Iterable, List, NamedTuple, Tuple, TypeVar

from ontpush.cluster.memory import read_json, write_json
from ontpush.cluster.messages import Message, message_from_json
from ontpush.cluster.notices import Notice, notice_from_json
from ontpush.cluster.tell import Notifier, Outcome
from ontpush.facts import limits

_FILE = b"outbox.json"
_Record = TypeVar("_Record")


class Waiting(NamedTuple):
    """A message, and the ids of those who have not been told it yet."""

    message: Message
    to: FrozenSet[str]


class Outbox:
    """The notices that stand as told, and the messages that wait for somebody.

    `complained` is by notifier when we last complained that it does not take what waits for it, in
    seconds since the epoch; 0 where it does. Who is not in it is new.
    """

    def __init__(self, state: bytes, notifiers: List[Notifier]) -> None:
        self._path = os.path.join(state, _FILE)
        self._notifiers = notifiers
        facts = read_json(self._path)
        self.notices = _records(facts.get("notices"), notice_from_json)
        self._complained = dict(_records(facts.get("complained"), _complained))
        waiting = _records(facts.get("waiting"), _waiting)
        self._waiting = {_same(each.message): each for each in self._addressed(waiting)}

    def _addressed(self, waiting: Iterable[Waiting]) -> Iterable[Waiting]:
        """What waits for somebody who is named no more goes to who has become known instead."""
        known = frozenset(each.id for each in self._notifiers)
        new = [each for each in self._notifiers if each.id not in self._complained]
        for each in waiting:
            heirs = _takers(each.message, new) if each.to - known else frozenset()
            to = (each.to & known) | heirs
            if to:
                yield each._replace(to=to)

    def put(self, messages: List[Message], notices: List[Notice]) -> Dict[str, int]:
        """Put messages in, for everybody who takes them, and what then stands as told. TryLater.

        A message that already waits is not told twice: the tick that put it there was killed.
        Returned is how many were given up since too much waits, by instrument.
        """
        is_news = bool(messages) or notices != self.notices
        is_other = {each.id for each in self._notifiers} != set(self._complained)
        self.notices = notices
        for message in messages:
            to = _takers(message, self._notifiers)
            before = self._waiting.pop(_same(message), Waiting(message, frozenset()))
            if to:
                self._waiting[_same(message)] = Waiting(message, to | before.to)
        given_up = self._drop_what_is_too_much()
        if is_news or is_other or given_up:
            self.save()
        return given_up

    def _drop_what_is_too_much(self) -> Dict[str, int]:
        """Give up the oldest of whoever has most waiting, again and again: how many, by name."""
        weights = {same: _weight(each) for same, each in self._waiting.items()}
        total = sum(weights.values())
        used: Dict[str, int] = Counter()
        queues: Dict[str, Deque[Message]] = {}
        for same, weight in weights.items():
            used[same.instrument] += weight
            queues.setdefault(same.instrument, deque()).append(same)
        dropped: Dict[str, int] = Counter()
        while total > limits.LARGEST_OUTBOX:
            most = max(used, key=lambda name: used[name])
            oldest = queues[most].popleft()
            del self._waiting[oldest]
            used[most] -= weights[oldest]
            total -= weights[oldest]
            dropped[most] += 1
        return dropped

    def waiting(self) -> List[Tuple[Notifier, List[Message]]]:
        """What everybody has still to be told. TryLater.

        It is written once more: on a disk that has no room for that, nobody could write down what
        was told, and it would be told again at every tick.
        """
        if self._waiting:
            self.save()
        waiting = list(self._waiting.values())
        return [
            (notifier, [each.message for each in waiting if notifier.id in each.to])
            for notifier in self._notifiers
        ]

    def take_out(self, outcome: Outcome) -> None:
        """Take out what a notifier was told, or refused; what did not go comes last next time."""
        for each in outcome.tries:
            for message in each.messages:
                waiting = self._waiting.pop(_same(message))
                to = waiting.to - {outcome.notifier.id} if each.is_last else waiting.to
                if to:
                    self._waiting[_same(message)] = waiting._replace(to=to)
        if not outcome.trouble:
            self._complained[outcome.notifier.id] = 0

    def may_complain(self, notifier: Notifier, remind_seconds: float) -> bool:
        """Whether to complain now that something still waits for a notifier; if so, it is noted."""
        now = int(time.time())
        if 0 <= now - self._complained.get(notifier.id, 0) < remind_seconds:
            return False
        self._complained[notifier.id] = now
        return True

    def save(self) -> None:
        """Write it down. TryLater."""
        known = {each.id: self._complained.get(each.id, 0) for each in self._notifiers}
        waiting = self._waiting.values()
        facts = {
            "notices": [dict(each._asdict()) for each in self.notices],
            "waiting": list(map(_facts, waiting)),
            "complained": sorted(known.items()),
        }
        write_json(self._path, facts)


def _takers(message: Message, notifiers: Iterable[Notifier]) -> FrozenSet[str]:
    return frozenset(each.id for each in notifiers if each.kinds & set(message.kinds))


def _same(message: Message) -> Message:
    """What two messages have in common that say the same: all but the facts."""
    return message._replace(facts=())


def _facts(waiting: Waiting) -> List[Any]:
    return [dict(waiting.message._asdict()), sorted(waiting.to)]


def _weight(waiting: Waiting) -> int:
    """The bytes that a message takes in the file, at least its share of the outbox."""
    return max(len(json.dumps(_facts(waiting))), limits.LARGEST_OUTBOX // limits.MOST_WAITING)


def _records(listed: Any, make: Callable[[Any], _Record]) -> List[_Record]:
    """What can be made of each; what we did not write ourselves counts as lost."""
    found = []
    for each in listed if isinstance(listed, list) else []:
        try:
            found.append(make(each))
        except (TypeError, ValueError, KeyError, ArithmeticError):
            continue
    return found


def _waiting(listed: List[Any]) -> Waiting:
    message, to = listed
    return Waiting(message_from_json(message), frozenset(map(str, to)))


def _complained(pair: List[Any]) -> Tuple[str, int]:
    name, at = pair
    return str(name), int(at)
