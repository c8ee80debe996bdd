"""Tells each thing once: when it begins, when it changes, again after a time, and when it ends."""

import time
from typing import (
    Any,
    Container,
    Dict,
    Iterable,
    Iterator,
    List,
    Mapping,
    NamedTuple,
    Optional,
    Set,
    Tuple,
)

from ontpush.cluster.conditions import Condition, of_more
from ontpush.cluster.messages import TITLES, Message, View, of_condition, of_end
from ontpush.engine.sums import md5_of_text
from ontpush.facts import limits, words
from ontpush.facts.names import shortened

_LONGEST_WHAT = 200  # characters


class Notice(NamedTuple):
    """What was told of a condition, and when, in seconds since the epoch.

    `same` is a digest of what the condition has by this name.
    """

    kind: str
    instrument: str
    run: str
    what: str
    same: str
    told_at: int

    @property
    def key(self) -> Tuple[str, str, str]:
        """What it is about."""
        return self.kind, self.instrument, self.run


def notice_from_json(facts: Any) -> Notice:
    """A notice from the outbox. TypeError, ValueError for anything else."""
    notice = Notice(**facts)
    *texts, told_at = notice
    "".join(texts).encode("utf-8", "surrogateescape")
    if notice.kind not in TITLES or not isinstance(told_at, int):
        raise ValueError("no notice of ours")
    return notice


class News(NamedTuple):
    """What is to be told now, and what then stands as told."""

    messages: List[Message]
    notices: List[Notice]


def news(
    told: List[Notice],
    conditions: Iterable[Condition],
    views: Mapping[str, View],
    unsure: Set[str],
    remind_seconds: float,
) -> News:
    """Hold what is wrong now against what has been told.

    Of the instruments in `unsure` not everything could be seen: nothing of theirs has ended.
    """
    known = {notice.key: notice for notice in told}
    messages: List[Message] = []
    notices: List[Notice] = []
    tellable = [each for each in _once(conditions) if not each.lingers or each.key in known]
    alike = {each.key[:2] for each in tellable if each.run}
    for each in _once(_not_too_many(tellable, known)):
        view = views.get(each.instrument)
        notice = known.pop(each.key, None)
        how = _how(notice, each, remind_seconds)
        if notice is None or how is not None:
            messages.append(of_condition(each, how or "", view))
            what = shortened(each.what, _LONGEST_WHAT)
            notice = Notice(*each[:3], what, md5_of_text(each.same), int(time.time()))
        notices.append(notice)
    for notice in known.values():
        if notice.instrument in unsure:
            notices.append(notice)
        elif not _needs_no_word(notice, views, alike):
            messages.append(of_end(*notice[:4], views.get(notice.instrument)))
    return News(messages, notices)


def _not_too_many(
    conditions: Iterable[Condition], known: Container[Tuple[str, str, str]]
) -> Iterator[Condition]:
    """Of very many runs of one instrument that are alike those of which was told, and some more."""
    alike: Dict[Tuple[str, str], List[Condition]] = {}
    for each in conditions:
        if each.run:
            alike.setdefault((each.kind, each.instrument), []).append(each)
        else:
            yield each
    for (kind, instrument), found in alike.items():
        found.sort(key=lambda each: each.key not in known)
        # What was told is none of the rest: an older version told more of them one by one.
        most = max(limits.MOST_TOLD, sum(each.key in known for each in found))
        yield from found[:most]
        more = len(found) - most
        if more > 0:
            yield of_more(kind, instrument, more)


def _once(conditions: Iterable[Condition]) -> Iterator[Condition]:
    """Several conditions of one kind and place are told as one."""
    found: Dict[Tuple[str, str, str], Condition] = {}
    for each in conditions:
        before = found.get(each.key)
        found[each.key] = _both(before, each) if before else each
    yield from found.values()


def _both(one: Condition, other: Condition) -> Condition:
    return one._replace(
        what=f"{one.what}; {other.what}",
        details=one.details + other.details,
        same=f"{one.same}\n{other.same}",
        lingers=one.lingers and other.lingers,
    )


def _how(notice: Optional[Notice], condition: Condition, remind: float) -> Optional[str]:
    """How a condition that was told is told again; None where it is not."""
    if notice is None:
        return ""
    if not _told_the_same(notice, condition):
        return "changed:"
    # A time in the future is that of a clock that was wrong.
    return None if 0 <= time.time() - notice.told_at < remind else "still"


def _told_the_same(notice: Notice, condition: Condition) -> bool:
    """Whether there is nothing new to tell; an older version wrote down the text itself."""
    return notice.same in (md5_of_text(condition.same), condition.same)


def _needs_no_word(
    notice: Notice, views: Mapping[str, View], alike: Container[Tuple[str, str]]
) -> bool:
    """An instrument that was taken away is not back; a run that was mended is told as verified.

    That it is so with fewer runs than were told as one is no end: `alike` are the kinds, by
    instrument, of which there are runs.
    """
    if not notice.instrument:
        return False
    if notice.instrument not in views:
        return True
    if _told_the_same(notice, of_more(notice.kind, notice.instrument, 1)):
        return notice.key[:2] in alike
    if notice.kind != words.VERIFICATION_FAILED:
        return False
    standing = views[notice.instrument].remembered.runs.get(notice.run)
    return standing is not None and standing.mended
