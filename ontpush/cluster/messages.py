"""What is told to people: one message for each thing that happened, with the run's facts."""

import contextlib
import os
from itertools import islice
from typing import Any, Dict, Iterable, Iterator, List, NamedTuple, Optional, Tuple

from ontpush.cluster.conditions import Condition, of_more
from ontpush.cluster.fleet import Instrument
from ontpush.cluster.heartbeats import Heartbeat, RunFacts
from ontpush.cluster.inside import opened_inside, path_of
from ontpush.cluster.memory import Remembered, Standing
from ontpush.facts import limits, words
from ontpush.facts.minknow import is_final_summary
from ontpush.facts.names import from_json, human_size, human_time, quoted, shortened, shown
from ontpush.facts.regular import open_regular

_FROM_SUMMARY = (
    ("sample", "sample_id"),
    ("experiment", "protocol_group_id"),
    ("flow cell", "flow_cell_id"),
    ("device", "instrument"),
    ("protocol", "protocol"),
)
_TOLD_OF_SUMMARY = frozenset(key.encode() for _, key in _FROM_SUMMARY)
_LONGEST_VALUE = 200  # characters
_LONGEST_NAME = 60  # characters
_LONGEST_SUBJECT = 200
TITLES = {
    words.VERIFIED: "verified",
    words.VERIFICATION_FAILED: "verification failed",
    words.EXTRA: "extra files",
    words.FAILED: "failed",
    words.STALLED: "stalled",
    words.SILENT: "silent",
    words.BACK: "back",
    words.DISK: "disk filling",
    words.COUNTS: "counts differ",
    words.HOOK_FAILED: "hook failed",
}


class Message(NamedTuple):
    """Something to be told to whoever takes one of its `kinds`; all texts are fit to be shown."""

    kinds: Tuple[str, ...]
    title: str
    instrument: str
    run: str
    what: str
    todo: str
    details: Tuple[str, ...] = ()
    facts: Tuple[Tuple[str, str], ...] = ()

    @property
    def where(self) -> str:
        """The instrument, and the run by its last name: none so long that it hides the other."""
        run = _begun(self.run.rpartition("/")[2], _LONGEST_NAME)
        return f"{run} ({self.instrument})" if run else self.instrument or "the cluster"

    @property
    def subject(self) -> str:
        """A line short enough for a list of mails."""
        return _begun(f"{self.title}: {self.where}", _LONGEST_SUBJECT)


def _begun(text: str, longest: int) -> str:
    return text if len(text) <= longest else text[: longest - 1] + "…"


class View(NamedTuple):
    """One instrument as this tick sees it."""

    instrument: Instrument
    beat: Optional[Heartbeat]
    remembered: Remembered

    def facts(self, run: str) -> Optional[RunFacts]:
        """What the instrument says of a run."""
        path = from_json(run)
        return self.beat.runs.get(path) if self.beat else None


def message_from_json(facts: Any) -> Message:
    """A message from the outbox. TypeError, ValueError, KeyError for anything else."""
    pairs = tuple((label, value) for label, value in facts["facts"])
    lists = {key: tuple(facts[key]) for key in ("kinds", "details")}
    message = Message(**dict(facts, facts=pairs, **lists))
    kinds, *texts, details, _ = message
    every = [*kinds, *texts, *details, *(text for pair in pairs for text in pair)]
    "".join(every).encode()
    if not kinds:
        raise ValueError("no message of ours")
    return message


def of_condition(condition: Condition, how: str, view: Optional[View]) -> Message:
    """That something is wrong: `how` is "" for the first time, else what to put before it."""
    title = TITLES[condition.kind]
    return Message(
        (condition.kind,),
        f"{how} {title}".strip(),
        condition.instrument,
        shown_run(condition.run),
        shortened(condition.what),
        condition.todo,
        tuple(map(shortened, condition.details)),
        _facts(view, condition.run),
    )


def of_end(kind: str, instrument: str, run: str, was: str, view: Optional[View]) -> Message:
    """That something is no longer wrong; `was` is what was told of it."""
    if kind == words.SILENT:
        return Message(
            (words.BACK,), "back", instrument, "", f"{instrument} is heard again", "Nothing."
        )
    what = f"no longer so: {shortened(was)}"
    facts = view.facts(run) if view and run else None
    if facts:
        what += f"; the run is now {facts.state}"
    return Message(
        (kind,),
        f"back to normal, was {TITLES[kind]}",
        instrument,
        shown_run(run),
        what,
        "Nothing.",
        (),
        _facts(view, run),
    )


def of_verified(view: View, run: str, standing: Standing) -> Message:
    """That a run lies here as it was when its sums were taken."""
    kinds = [words.VERIFIED] + [words.VERIFICATION_FAILED] * standing.mended
    what = "every file was read here and is what the roll-up says"
    todo = "Nothing: it can be used, and `rsync.verified` in it vouches for that."
    if standing.mended:
        what = "mended: what was wrong before is right now; " + what
    told = view.facts(run)
    if told and told.warning:
        said = view.instrument.says(told.warning)
        what += f"; but it does not have what its final summary counts; {said}"
        todo = "See whether what is missing matters before you use it: look in MinKNOW's fallback"
        todo += " folder on the instrument. `rsync.verified` vouches for what is listed, no more."
    return Message(
        tuple(kinds),
        "mended, verified" if standing.mended else "verified",
        view.instrument.name,
        shown_run(run),
        shortened(what),
        todo,
        (),
        _facts(view, run),
    )


def not_too_many(messages: Iterable[Message]) -> List[Message]:
    """Of very many alike messages of one instrument the first, and how many more there are."""
    alike: Dict[Tuple[str, str], List[Message]] = {}
    for message in messages:
        alike.setdefault((message.title, message.instrument), []).append(message)
    kept: List[Message] = []
    for found in alike.values():
        whole = [each for each in found if not each.run]
        runs = [each for each in found if each.run]
        kept += whole + runs[: limits.MOST_TOLD]
        if len(runs) > limits.MOST_TOLD:
            first, more = runs[0], len(runs) - limits.MOST_TOLD
            rest = of_condition(of_more(first.kinds[0], first.instrument, more), "", None)
            kept.append(rest._replace(kinds=first.kinds, title=first.title))
    return kept


def shown_run(run: str) -> str:
    """A run's path for people."""
    return shortened(shown(from_json(run)))


def _facts(view: Optional[View], run: str) -> Tuple[Tuple[str, str], ...]:
    if view is None or not run:
        return ()
    return tuple(_run_facts(view, run))


def _run_facts(view: View, run: str) -> Iterator[Tuple[str, str]]:
    path = from_json(run)
    summary = final_summary(view.instrument.base, path)
    for label, key in _FROM_SUMMARY:
        if summary.get(key):
            yield label, quoted(summary[key])
    yield "instrument", view.instrument.name
    told, standing = view.facts(run), view.remembered.runs.get(run)
    size = standing.bytes if standing and standing.bytes else told.bytes if told else 0
    files = standing.files if standing and standing.files else told.files if told else 0
    if files:
        yield "files", f"{files:,}"
        yield "size", human_size(size)
    if told and told.first_sent_at and told.done_at > told.first_sent_at:
        seconds = told.done_at - told.first_sent_at
        yield "duration", f"{human_time(seconds)} from the first file sent until done"
        yield "rate", f"{human_size(size / seconds)}/s"
    yield "lies in", shortened(shown(os.path.join(view.instrument.base, path)))


def final_summary(base: bytes, run: bytes) -> Dict[str, str]:
    """What a run's final summaries say that is told; the last one's word where several have it."""
    found: Dict[bytes, bytes] = {}
    # What is gone, or cannot be read, is told without.
    with contextlib.suppress(OSError), opened_inside(base, run) as directory:
        with os.scandir(path_of(directory)) as entries:
            names = [each.name for each in islice(entries, limits.MOST_ENTRIES)]
        for name in sorted(filter(is_final_summary, names))[-limits.MOST_SUMMARIES :]:
            with open_regular(path_of(directory) + b"/" + name) as file:
                found.update(_pairs(file.read(limits.LARGEST_SUMMARY)))
    # A character has four bytes at most.
    return {
        key.decode(): shown(value[: 4 * _LONGEST_VALUE])[:_LONGEST_VALUE]
        for key, value in found.items()
    }


def _pairs(text: bytes) -> Iterator[Tuple[bytes, bytes]]:
    for line in text.split(b"\n", limits.MOST_SUMMARY_LINES)[: limits.MOST_SUMMARY_LINES]:
        key, _, value = line.partition(b"=")
        if key.strip() in _TOLD_OF_SUMMARY:
            yield key.strip(), value.strip()
