"""What is wrong with an instrument or a run at this moment, and what to do about it."""

import contextlib
import os
import time
from typing import Dict, Iterator, List, NamedTuple, Optional, Tuple

from ontpush.cluster.arrivals import NOTHING_LEFT
from ontpush.cluster.fleet import Instrument, why_lost
from ontpush.cluster.heartbeats import Heartbeat, RunFacts
from ontpush.cluster.memory import CONTESTED, GOOD, UNVOUCHED, Remembered, Standing
from ontpush.cluster.verdict import bad_files, can_be_sent_again, was_sent_in_vain
from ontpush.engine.allowance import TooMuch, allowance, counted
from ontpush.engine.find import find_runs
from ontpush.engine.mark import date_text
from ontpush.facts import limits, words
from ontpush.facts.names import (
    for_json,
    from_json,
    human_size,
    human_time,
    plural,
    quoted,
    shown,
    steady,
)

_LOOK_SECONDS = 3600
_BEHIND_SECONDS = 3600
_WRONG = (words.FAILED, words.STALLED)
_MOST_LINES = 20
# A file comes before the roll-up that lists it: only one that has lain here so long is no late one.
_EXTRA_SECONDS = 86400
# RUN/pod5_pass/barcode01/: where files come in.
_DATA_DEPTH = 3
_HOVERING = 2.0  # percent that a disk has to have more room than at its limit, to be well again


class Limits(NamedTuple):
    """From when on something is wrong: `silent` in seconds, `disk` in percent filled."""

    silent: float
    disk: float


class Condition(NamedTuple):
    """Something that is wrong. While `same` stays the same there is nothing new to tell.

    What only `lingers` is not bad enough to be told, nor good enough to be over if it was.
    """

    kind: str
    instrument: str
    run: str
    what: str
    todo: str
    details: Tuple[str, ...] = ()
    same: str = ""
    lingers: bool = False

    @property
    def key(self) -> Tuple[str, str, str]:
        """What it is about."""
        return self.kind, self.instrument, self.run


def quiet_since(instrument: Instrument, beat: Heartbeat, limits: Limits, before: int) -> int:
    """When it was found last that nothing comes from an instrument; 0 where something does.

    `before` is what this said the last time. The directories of one that is silent are looked at
    once an hour: it may be switched off for months.
    """
    now = time.time()
    if now - beat.arrived_at <= limits.silent:
        return 0
    if 0 <= now - before < _LOOK_SECONDS:
        return before
    return 0 if _is_receiving(instrument, beat, limits.silent) else int(now)


def of_instrument(
    instrument: Instrument, beat: Heartbeat, limits: Limits, is_quiet: bool
) -> Iterator[Condition]:
    """What is wrong with an instrument as a whole."""
    name = instrument.name
    silence = time.time() - beat.arrived_at
    if is_quiet:
        yield Condition(
            words.SILENT,
            name,
            "",
            f"nothing has come from {name} for {human_time(silence)}",
            _how_heard(instrument),
        )
    said = tuple(map(instrument.says, beat.errors))
    for errors, told in ((beat.errors, said), (beat.faults, beat.faults)):
        if errors:
            yield Condition(
                words.FAILED,
                name,
                "",
                f"{name} reports trouble that belongs to no single run",
                "Run `ontpush check` on it.",
                told,
                steady("\n".join(errors)),
            )
    if beat.unsent:
        yield Condition(
            words.FAILED,
            name,
            "",
            f"on {name} lies what no run takes along",
            "Move what is named into its run, to where runs are looked for, or away.",
            tuple(map(instrument.says, beat.unsent)),
            "\n".join(beat.unsent),
        )
    yield from of_disk(name, "", beat.free_bytes, beat.total_bytes, limits)


def _how_heard(instrument: Instrument) -> str:
    """What to look at when an instrument is silent."""
    if instrument.pulled:
        return (
            f"Run `ontpush pull {instrument.name}` here: it says why it cannot be reached. If it"
            " can, see whether cron there still calls `ontpush hash --all`."
        )
    return "See whether it is switched on and reaches the cluster: run `ontpush check` on it."


def of_unheard(instrument: Instrument, since: float, limits: Limits) -> Iterator[Condition]:
    """An instrument that is pulled from and could not be reached even once."""
    if time.time() - since > limits.silent:
        yield Condition(
            words.SILENT,
            instrument.name,
            "",
            f"{instrument.name} has never been heard",
            f"Run `ontpush pull {instrument.name}` by hand: it says why.",
        )


def of_lost(name: str, place: bytes, memory: bytes) -> Condition:
    """An instrument that is remembered in the file `memory`, and not to be seen at its place."""
    return Condition(
        words.SILENT,
        name,
        "",
        f"nothing is to be seen of {name} any more: {shown(place)} {why_lost(place)}",
        "Mount its disk, or put back what lay there; what was told of it stands until then. If the"
        f" instrument is gone for good, or has another name now, remove {shown(memory)}",
    )


def of_bad_heartbeat(instrument: Instrument, why: str) -> Condition:
    """A heartbeat that cannot be read is as good as none, and told as what it is."""
    return Condition(
        words.FAILED,
        instrument.name,
        "",
        f"the heartbeat of {instrument.name} cannot be read: {why}",
        f"Look at {quoted(shown(instrument.heartbeat or b''))}; the next push of the instrument"
        " writes it anew.",
        same=steady(why),
    )


def of_failed_look(instrument: Instrument, why: str) -> Condition:
    """An instrument that could not be looked at, for whatever lies there."""
    return Condition(
        words.FAILED,
        instrument.name,
        "",
        f"{instrument.name} cannot be looked at: {why}",
        f"See what lies in {shown(instrument.base)}; the other instruments are looked at.",
        same=steady(why),
    )


def of_held_lock(why: str) -> Condition:
    """A lock of this state that something holds and does nothing under."""
    return Condition(
        words.FAILED,
        "",
        "",
        "something keeps the ticks of the monitor from their work",
        "End that process, or see why its disk does not answer; the next tick goes on.",
        (why,),
        "held",
    )


def of_held_back(instrument: str, count: int) -> Condition:
    """An instrument for whose runs as many hooks were started today as may be."""
    most = plural(limits.MOST_HOOKS, "command")
    return Condition(
        words.FAILED,
        instrument,
        "",
        f"{most} of on_verified were started today for runs of {instrument}; {count:,} more wait"
        " for tomorrow",
        "See why so many of its runs are done, or done again and again.",
        same="held back",
    )


def of_planted(instrument: Instrument, stay: List[Tuple[bytes, str]]) -> Condition:
    """That marks lie in an instrument's runs that the monitor did not write, and cannot remove."""
    lines = tuple(f"{shown(run)}: {why}" for run, why in stay)
    return Condition(
        words.FAILED,
        instrument.name,
        "",
        f"rsync.verified in {plural(len(stay), 'run')} of {instrument.name} vouches for nothing"
        " that was verified here, and cannot be removed",
        "Remove it, and let this user write there. Whoever has the key of the instrument may have"
        " written it.",
        lines[:_MOST_LINES],
        "planted",
    )


def of_unasked(instrument: Instrument, why: str) -> Condition:
    """An instrument that cannot be told that something went bad here."""
    return Condition(
        words.FAILED,
        instrument.name,
        "",
        f"{instrument.name} cannot be asked to send again what is wrong here: {why}",
        "Let this user write there; nothing else may lie at `again` or `HOST.bell`.",
        same=steady(why),
    )


def of_disk(
    instrument: str, place: str, free: int, total: int, limits: Limits
) -> Iterator[Condition]:
    """A disk that fills: that of an instrument, or one of the cluster's."""
    if not total or free > total:
        return
    filled = 100 * (1 - free / total)
    if filled > limits.disk - _HOVERING:
        where = f"the disk of {instrument}" if instrument else f"the disk of {place}"
        yield Condition(
            words.DISK,
            instrument,
            "",
            f"{where} is {filled:.0f} % full: {human_size(free)} of {human_size(total)} are free",
            "Make room: on an instrument, of runs that are done and verified.",
            lingers=filled <= limits.disk,
        )


def of_run(instrument: Instrument, run: str, facts: RunFacts) -> Iterator[Condition]:
    """What an instrument says is wrong with one of its runs."""
    name = instrument.name
    if facts.state == words.FAILED:
        yield Condition(
            words.FAILED,
            name,
            run,
            f"it could not be brought over; {instrument.says(facts.error)}",
            "Mend what the message names; the next tick on the instrument tries again by itself.",
            same=steady(facts.error),
        )
    if facts.state == words.STALLED:
        yield Condition(
            words.STALLED,
            name,
            run,
            "it has no final summary and has not changed for long; what there is has been sent",
            "See whether the run was broken off. To leave it alone: `ontpush skip RUN REASON` on"
            " the instrument.",
        )
    if facts.warning and facts.state != words.SKIPPED:
        yield Condition(
            words.COUNTS,
            name,
            run,
            f"it does not have what its final summary counts; {instrument.says(facts.warning)}",
            "Look in MinKNOW's fallback folder on the instrument; what is moved into the run is"
            " sent by itself.",
            same=steady(facts.warning),
        )


def of_verification(instrument: Instrument, run: str, standing: Standing) -> Iterator[Condition]:
    """What was found here, or kept a run from being verified."""
    again = ["sent again in vain"] * was_sent_in_vain(standing)
    if standing.bad_count:
        files = bad_files(standing) + (standing.error,) * bool(standing.error)
        yield Condition(
            words.VERIFICATION_FAILED,
            instrument.name,
            run,
            "{} on the cluster {} not what the roll-up says".format(
                plural(standing.bad_count, "file"), "are" if standing.bad_count > 1 else "is"
            ),
            f"Do not use it. {_how_mended(instrument, standing)}",
            files,
            "\n".join([*files, *again]),
        )
    elif standing.error:
        yield Condition(
            words.VERIFICATION_FAILED,
            instrument.name,
            run,
            f"it could not be verified: {standing.error}",
            _how_mended(instrument, standing)
            if standing.verdict == UNVOUCHED
            else "Mend what the message names; it is tried again by itself.",
            same="\n".join([steady(standing.error), *again]),
        )


def _how_mended(instrument: Instrument, standing: Standing) -> str:
    """What becomes of a corrupt run, and what is to be done if it does not."""
    if standing.error == NOTHING_LEFT:
        return (
            "The instrument cannot send it again. Put md5sum and rsync.done back from a backup, or"
            " the run back on the instrument; a run that is not wanted here any more is to be moved"
            " away."
        )
    if not can_be_sent_again(standing):
        return (
            "Sending it again does not mend this: what is called sha256 is not what MinKNOW says it"
            " wrote, so look at the disk of the instrument."
        )
    if was_sent_in_vain(standing):
        then = "" if instrument.pulled else " Then run `ontpush retry RUN` on the instrument."
        return (
            "It came again, and each time was found wrong here: look at the disks and the memory of"
            f" both ends.{then}"
        )
    if instrument.pulled:
        return "The next `ontpush pull` fetches what differs again, and it is verified anew."
    return (
        "The instrument sends what differs again by itself, within two of its ticks, and it is"
        " verified anew: you are told. If not, see whether the instrument is on and still has the"
        " run, and what its log says of it; `ontpush retry RUN` there makes its next tick compare"
        " it. If it happens again, look at the disks."
    )


def of_extra(instrument: Instrument, run: str, standing: Standing) -> Iterator[Condition]:
    """That files lie in a run that its roll-up has not listed for long; every listed one is so."""
    place = os.path.join(instrument.base, from_json(run))
    paths = [from_json(path) for path in standing.extra]
    lasting = [path for path in paths if _has_lain(os.path.join(place, path))]
    if not lasting:
        return
    more = standing.extra_count - len(standing.extra)
    files = tuple(map(shown, lasting)) + (f"and up to {more:,} more",) * bool(more)
    yield Condition(
        words.EXTRA,
        instrument.name,
        run,
        "{} in no roll-up: {} since more than a day".format(
            "a file lies in it that is" if len(lasting) == 1 else "files lie in it that are",
            quoted(shown(lasting[0])),
        ),
        "What the roll-up lists is as it should be. If the instrument has the file too, `ontpush"
        " retry RUN` there has it listed; if not, somebody here put it there: move it away.",
        files,
        "\n".join(files),
        lingers=standing.verdict != GOOD,
    )


def of_more(kind: str, instrument: str, count: int) -> Condition:
    """That it is with more runs as with those that are told one by one."""
    return Condition(
        kind,
        instrument,
        "",
        f"it is the same with {plural(count, 'more run')}",
        "`ontpush status` here shows them all.",
        same="more",
    )


def of_contested(instrument: Instrument, contested: Dict[str, str]) -> Condition:
    """That two sequencers send runs to the same place: why each run is so, by its path."""
    runs = [shown(from_json(run)) for run in contested]
    more = f" and {plural(len(runs) - 1, 'run')} more" if len(runs) > 1 else ""
    lines = tuple(f"{run}: {why}" for run, why in zip(runs, contested.values()))
    return Condition(
        words.FAILED,
        instrument.name,
        "",
        f"{next(iter(contested.values()))}: {quoted(runs[0])}{more}",
        "Do not use it before one of the two has moved: give each sequencer a directory of its own,"
        " or rename one of the runs; then `ontpush retry RUN` where it still fails.",
        lines[:_MOST_LINES],
        "\n".join(lines),
    )


def _is_coming(beat: Optional[Heartbeat], run: str) -> bool:
    """Whether the instrument says that it still brings something of the run."""
    facts = beat.runs.get(from_json(run)) if beat else None
    return facts is not None and facts.state != words.DONE


def _has_lain(path: bytes) -> bool:
    try:
        return time.time() - os.lstat(path).st_ctime >= _EXTRA_SECONDS
    except OSError:
        return False


def of_runs(
    instrument: Instrument, beat: Optional[Heartbeat], remembered: Remembered
) -> Iterator[Condition]:
    """What is wrong with any run of an instrument."""
    if remembered.fault:
        yield Condition(
            words.FAILED,
            instrument.name,
            "",
            f"{instrument.name} holds more than is looked at: {remembered.fault}",
            f"See what fills {shown(instrument.base)}, and move away what is no run.",
            same=remembered.fault,
        )
    if remembered.behind_since and time.time() - remembered.behind_since > _BEHIND_SECONDS:
        yield Condition(
            words.FAILED,
            instrument.name,
            "",
            f"more is new of {instrument.name} than is read: some of it has waited since"
            f" {date_text(remembered.behind_since)}",
            "See how fast the disk here is, and what that instrument sends; its runs are taken up"
            " one after the other.",
            same="behind",
        )
    runs = remembered.runs
    contested = {run: each.error for run, each in sorted(runs.items()) if each.verdict == CONTESTED}
    if contested:
        yield of_contested(instrument, contested)
    for path, facts in beat.runs.items() if beat else ():
        run = for_json(path)
        # Of one that is contested the one sequencer says this, the other that.
        if run not in contested and (facts.warning or facts.state in _WRONG):
            yield from of_run(instrument, run, facts)
    for run, standing in runs.items():
        if run in contested:
            continue
        yield from of_verification(instrument, run, standing)
        if standing.extra and not _is_coming(beat, run):
            yield from of_extra(instrument, run, standing)


def _is_receiving(instrument: Instrument, beat: Heartbeat, seconds: float) -> bool:
    """Whether a long tick is at work: a heartbeat comes only at its end, but files come in."""
    since = time.time() - seconds
    with contextlib.suppress(TooMuch), allowance(limits.MOST_ENTRIES, limits.MOST_SECONDS):
        return _has_come(instrument, beat, since)
    return False


def _has_come(instrument: Instrument, beat: Heartbeat, since: float) -> bool:
    for found in find_runs(instrument.base, lambda _: None):
        facts = beat.runs.get(os.path.relpath(found.path, instrument.base))
        if facts and facts.state in (words.DONE, words.SKIPPED):
            continue
        if any(os.lstat(each).st_ctime > since for each in _data_directories(found.path)):
            return True
    return False


def _data_directories(run: bytes) -> Iterator[bytes]:
    """The run's directories, as deep as data lies: whoever sends could nest them without end."""
    level = [run]
    for _ in range(_DATA_DEPTH):
        yield from level
        level = [path for each in level for path in _directories_in(each)]


def _directories_in(directory: bytes) -> List[bytes]:
    try:
        with os.scandir(directory) as entries:
            return [entry.path for entry in counted(entries) if entry.is_dir(follow_symlinks=False)]
    except OSError:  # gone, or not to be read: nothing is seen to come in
        return []
