"""One look at the whole fleet: what is new, what is wrong, what has to be told and to be done.

A look is short. What takes long - reading runs, hooks - is done between looks and leaves what
it found in files, so that another tick can look meanwhile.
"""

import contextlib
import os
import sys
import time
from typing import Collection, Dict, Iterator, List, NamedTuple, Optional, Set, Tuple

from ontpush.cluster.announce import announce
from ontpush.cluster.arrivals import checking, take_note, verify_again, vouched
from ontpush.cluster.checking import Check
from ontpush.cluster.conditions import (
    Condition,
    of_bad_heartbeat,
    of_disk,
    of_failed_look,
    of_held_back,
    of_held_lock,
    of_instrument,
    of_lost,
    of_planted,
    of_runs,
    of_unasked,
    of_unheard,
    quiet_since,
)
from ontpush.cluster.contests import Contested, contests, hold
from ontpush.cluster.fleet import Instrument, instruments
from ontpush.cluster.heartbeats import BadHeartbeat, Heartbeat, read_heartbeat
from ontpush.cluster.hooks import hooks_of
from ontpush.cluster.hooks_today import HooksToday
from ontpush.cluster.leftover import clear_beside_heartbeats, clear_verified
from ontpush.cluster.memory import (
    CHECKING,
    GOOD,
    UNCHECKED,
    UNVOUCHED,
    Remembered,
    Standing,
    in_short,
)
from ontpush.cluster.messages import View
from ontpush.cluster.planted import take_back_planted
from ontpush.cluster.requests import request_again
from ontpush.cluster.sight import Settled, Sight, Watch
from ontpush.cluster.slurm import Slurm
from ontpush.cluster.turns import begun_elsewhere
from ontpush.cluster.verdict import (
    bad_files,
    bring_marks_back,
    drop_verdict,
    read_verdict,
    settle,
    verdict_path,
)
from ontpush.cluster.wanted import wanted
from ontpush.engine.allowance import TooMuch, allowance
from ontpush.engine.lock import held_too_long
from ontpush.facts import limits
from ontpush.facts.names import below, for_json, from_argument, from_json, human_size, plural, shown
from ontpush.facts.trouble import OutOfReach, RunFailed, Trouble, Unexpected
from ontpush.facts.words import (
    HEARTBEAT_DIRECTORY,
    LOG_FAIL,
    LOG_MARK_DONE,
    LOG_WARN,
)

_MOST_LOGGED = 20  # runs of an instrument of which a look says the same


class _Now(NamedTuple):
    """What people ask for, which runs of this instrument another one sends too, how many are."""

    asked: Dict[bytes, bytes]
    contested: Contested
    instruments: int


def look(watch: Watch, telling: bool = True) -> Sight:
    """Look at every instrument; one that is broken holds up no other. Needs the monitor's lock.

    What is new is told by the next look that is `telling`.
    OutOfReach, and nothing is changed, where the disk of the root is not there.
    """
    slurm = Slurm(watch.checker, watch.slurm, watch.log) if watch.slurm else None
    sight = Sight({}, [], [], [], slurm, [])
    conditions: List[Condition] = []
    unsure: Set[str] = set()
    fleet = [each for each in _fleet(watch) if not _is_lost(watch, each)]
    asked = wanted(watch.memory.directory)
    contested = contests(fleet, watch.memory, watch.limits.silent)
    hooks_today = HooksToday(watch.memory.directory)
    # A free place of Slurm's is not always the same one's.
    for instrument in begun_elsewhere(fleet) if slurm else fleet:
        now = _Now(asked, _contested(watch, instrument, contested), len(fleet))
        try:
            with allowance(sys.maxsize, limits.INSTRUMENT_SECONDS):
                view, found = _look_at(watch, instrument, sight, now)
            hooks, waiting = hooks_of(watch.hooks, hooks_today, view)
        except Trouble:  # of the state, and so of all
            raise
        except Exception as error:  # noqa: BLE001 - whatever one of them sent, the others go on
            conditions.append(_of_failed_look(watch, sight, instrument, error))
            unsure.add(instrument.name)
            continue
        if view.beat is None:
            unsure.add(instrument.name)
        sight.views[instrument.name] = view
        sight.hooks.extend(hooks)
        conditions += found
        if waiting:
            conditions.append(of_held_back(instrument.name, waiting))
    for name, memory in watch.memory.lost(each.name for each in fleet):
        # What was told of it still stands.
        unsure.add(name)
        place = os.path.join(watch.root, from_argument(name))
        conditions.append(of_lost(name, place, memory))
    if not unsure:
        _refuse_wanted(watch, asked)
    if slurm and slurm.trouble:
        sight.troubles.append(Trouble(str(slurm.trouble)))
    conditions += [*_own_disks(watch), *_own_locks(watch)]
    if telling:
        announce(watch, sight, conditions, unsure)
    return sight


def _contested(
    watch: Watch, instrument: Instrument, contested: Dict[bytes, Contested]
) -> Contested:
    """What an instrument sends that another one does too."""
    found = contested.get(instrument.base, {})
    if instrument.base != watch.root:
        return found
    return {run: names for run, names in found.items() if instrument.name in names}


def _of_failed_look(
    watch: Watch, sight: Sight, instrument: Instrument, error: Exception
) -> Condition:
    """That an instrument could not be looked at: it is told, and logged."""
    why = str(error) if isinstance(error, TooMuch) else Unexpected(error).message
    if isinstance(error, OSError):
        why = f"{shown(os.fsencode(error.filename or b''))}: {error.strerror}"
    sight.troubles.append(RunFailed(f"{instrument.name}: {why}"))
    watch.log.event(LOG_FAIL, instrument.name.encode(), why)
    return of_failed_look(instrument, why)


def _fleet(watch: Watch) -> List[Instrument]:
    try:
        is_empty = not os.listdir(watch.root)
        found = instruments(watch.root, watch.pulled)
    except OSError as error:
        raise _lost(watch, error) from error
    if is_empty:
        _check_mounted(watch)
    return found


def _is_lost(watch: Watch, instrument: Instrument) -> bool:
    """Whether a pulled instrument that had runs here has not even a heartbeat any more."""
    return instrument.heartbeat is None and bool(watch.memory.load(instrument.name).runs)


def _lost(watch: Watch, error: OSError) -> OutOfReach:
    """The root was there when the tick began."""
    return OutOfReach(
        f"{shown(watch.root)}: cannot be read any more: {error.strerror}; is its disk mounted?"
    )


def _check_mounted(watch: Watch) -> None:
    """A disk that is not mounted leaves an empty directory. OutOfReach."""
    for name, _ in watch.memory.instruments():
        if name not in watch.pulled or watch.memory.load(name).runs:
            memory = shown(os.path.join(watch.memory.directory, b"instruments"))
            raise OutOfReach(
                f"{shown(watch.root)}: is empty, and {name} was there; is its disk mounted? If"
                f" every instrument is gone for good, remove {memory}"
            )


def _look_at(
    watch: Watch, instrument: Instrument, sight: Sight, now: _Now
) -> Tuple[View, List[Condition]]:
    """One instrument: take up what is new, what is asked for, and what verifications found."""
    before = watch.memory.load(instrument.name)
    beat, quiet_at, conditions = _hear(watch, instrument, before)
    noted = take_note(instrument, beat, before, watch.remind_seconds, now.contested)
    remembered = noted[0]._replace(quiet_at=quiet_at)
    if instrument.base != watch.root:  # where several send, a mark may be of a run of another's
        conditions += _take_back_planted(watch, instrument, beat, noted)
    if remembered.searched_at != before.searched_at:
        bring_marks_back(instrument, remembered.runs)
    _note_unvouched(watch, sight, instrument, before, remembered)
    taken = _take_up_wanted(instrument, remembered, now.asked)
    held = hold(instrument, remembered.runs, now.contested)
    for run in held[:_MOST_LOGGED]:
        _fail(watch, sight, instrument, run, remembered.runs[run].error)
    _log_more(watch, instrument.name.encode(), len(held))
    if sight.slurm:
        sight.slurm.share(
            now.instruments, [each.job for each in remembered.runs.values() if each.job]
        )
    for run, standing in checking(remembered).items():
        after = _go_on(watch, instrument, run, standing, sight)
        if after is None:
            del remembered.runs[run]
            continue
        remembered.runs[run] = after
        if after.verdict not in (CHECKING, UNVOUCHED):  # opened again meanwhile is no trouble
            _note(watch, sight, instrument, run, remembered)
    _clear_away(watch, instrument, remembered, is_day=remembered.searched_at != before.searched_at)
    conditions += _ask(watch, sight, instrument, before, remembered)
    remembered = remembered._replace(runs=in_short(remembered.runs))
    if remembered != before:
        watch.memory.save(instrument.name, remembered)
    for file in taken:
        os.unlink(file)
    view = View(instrument, beat, remembered)
    _forget_verdicts(watch, view, before)
    conditions += of_runs(instrument, beat, remembered)
    return view, conditions


def _take_back_planted(
    watch: Watch,
    instrument: Instrument,
    beat: Optional[Heartbeat],
    noted: Tuple[Remembered, Collection[bytes]],
) -> List[Condition]:
    """Take marks back that are not ours; what is wrong where one stays."""
    name = instrument.name.encode()
    found = list(take_back_planted(instrument, beat, *noted))
    for run, why in found[:_MOST_LOGGED]:
        what = f"{why}; remove it" if why else "removed"
        where = name + b"/" + run
        watch.log.event(
            LOG_WARN, where, f"rsync.verified vouches for nothing verified here: {what}"
        )
    _log_more(watch, name, len(found))
    stay = [(run, why) for run, why in found if why]
    return [of_planted(instrument, stay)] if stay else []


def _log_more(watch: Watch, name: bytes, count: int) -> None:
    if count > _MOST_LOGGED:
        more = plural(count - _MOST_LOGGED, "run")
        watch.log.event(LOG_WARN, name, f"the same of {more} more")


def _take_up_wanted(
    instrument: Instrument, remembered: Remembered, asked: Dict[bytes, bytes]
) -> List[bytes]:
    """Have verified again what somebody asked for; the files that did, no longer `asked` now."""
    taken = []
    base, runs, now = os.path.realpath(instrument.base), remembered.runs, int(time.time())
    for path in [each for each in asked if each.startswith(base + b"/")]:
        where = below(path, base)
        run = for_json(where)
        if run not in runs:
            try:
                found = vouched(instrument.base, where)
            except OSError:
                del asked[path]  # it stays for the next look
                continue
            if found is None:
                continue
            runs[run] = Standing(found.rollup, found.marked, CHECKING, now)
        elif runs[run].verdict == UNVOUCHED:
            runs[run] = runs[run]._replace(found_bad=0, tries=0)
        else:
            runs[run] = verify_again(runs[run], now)
        taken.append(asked.pop(path))
    return taken


def _refuse_wanted(watch: Watch, asked: Dict[bytes, bytes]) -> None:
    """Say of what no instrument has, or nothing vouches for, that it is not verified again."""
    for path, file in asked.items():
        why = "asked to be verified again, but not known, and no rsync.done there vouches for it"
        watch.log.event(LOG_WARN, below(path, os.path.realpath(watch.root)), why)
        with contextlib.suppress(FileNotFoundError):
            os.unlink(file)


def _go_on(
    watch: Watch, instrument: Instrument, run: str, standing: Standing, sight: Sight
) -> Optional[Standing]:
    """How a run stands that is to be verified: by its verdict, or by Slurm's word of its job."""
    path = verdict_path(watch.memory.directory, instrument.name, run, standing)
    where = from_json(run)
    verdict = read_verdict(path)
    if verdict is not None:
        after = settle(instrument, where, standing, verdict)
        if after and after.verdict == CHECKING and verdict.is_passing:
            place = instrument.name.encode() + b"/" + where
            watch.log.event(LOG_WARN, place, f"{verdict.error}; it is tried again")
        return after
    has_failed = bool(standing.error or standing.tries)
    full_path = os.path.join(instrument.base, where)
    check = Check(instrument.name, run, full_path, path, standing.since, has_failed)
    if sight.slurm:
        return sight.slurm.follow(check, standing)
    sight.due.append(check)
    return standing


def _clear_away(watch: Watch, instrument: Instrument, now: Remembered, is_day: bool) -> None:
    """Remove what killed transfers left in verified runs, and once a day beside the heartbeat."""
    name = instrument.name.encode()

    def tell(path: bytes, what: str) -> None:
        watch.log.event(LOG_WARN, name + b"/" + path, what)

    with allowance(limits.MOST_ENTRIES, limits.MOST_SECONDS):
        for run, standing in now.runs.items():
            if standing.leftover and standing.verdict == GOOD:
                where = from_json(run)
                now.runs[run] = clear_verified(instrument, where, standing, tell)
    if is_day:
        clear_beside_heartbeats(instrument, tell)


def _ask(
    watch: Watch, sight: Sight, instrument: Instrument, before: Remembered, now: Remembered
) -> List[Condition]:
    """Ask an instrument to send runs again, or no longer; why it cannot be, where it cannot.

    Before it is written down how they stand: a request is never forgotten.
    """
    name = instrument.name.encode()
    try:
        for run in request_again(instrument, before, now):
            why = "the instrument is asked to send again what differs"
            watch.log.event(LOG_WARN, name + b"/" + run, why)
    except OSError as error:
        where = shown(instrument.base + b"/" + HEARTBEAT_DIRECTORY)
        why = f"{where}: {error.strerror}"
        message = f"cannot be asked to send again: {why}; let this user write there"
        watch.log.event(LOG_WARN, name, message)
        if now.runs != before.runs:
            sight.troubles.append(Trouble(f"{instrument.name}: {message}"))
        return [of_unasked(instrument, why)]
    return []


def _hear(
    watch: Watch, instrument: Instrument, before: Remembered
) -> Tuple[Optional[Heartbeat], int, List[Condition]]:
    """What an instrument says of itself, since when nothing comes, and what is wrong with it."""
    if instrument.heartbeat is None:
        since = before.known_since or time.time()
        return None, 0, list(of_unheard(instrument, since, watch.limits))
    try:
        beat = read_heartbeat(instrument.heartbeat)
    except BadHeartbeat as error:
        return None, 0, [of_bad_heartbeat(instrument, str(error))]
    quiet_at = quiet_since(instrument, beat, watch.limits, before.quiet_at)
    return beat, quiet_at, list(of_instrument(instrument, beat, watch.limits, bool(quiet_at)))


def _note(
    watch: Watch, sight: Sight, instrument: Instrument, run: str, remembered: Remembered
) -> None:
    """Log how a verification ended."""
    standing = remembered.runs[run]
    place = instrument.name.encode() + b"/" + from_json(run)
    bad = list(bad_files(standing))
    if standing.verdict == GOOD:
        count = plural(standing.files, "file")
        watch.log.event(LOG_MARK_DONE, place, f"verified: {count}, {human_size(standing.bytes)}")
    else:
        for what in bad or [f"cannot be verified: {standing.error}"]:
            sight.troubles.append(RunFailed(what, place))
            watch.log.event(LOG_FAIL, place, what)
    sight.settled.append(
        Settled(
            instrument.name,
            run,
            standing.verdict,
            standing.rollup,
            standing.files,
            standing.bytes,
            bad,
        )
    )


def _note_unvouched(
    watch: Watch, sight: Sight, instrument: Instrument, before: Remembered, now: Remembered
) -> None:
    """Log each run that the instrument calls done and that nothing here vouches for, once."""
    for run, standing in now.runs.items():
        known = before.runs.get(run)
        is_told = known is not None and known.error == standing.error
        if standing.verdict == UNVOUCHED and standing.error and not is_told:
            _fail(watch, sight, instrument, run, standing.error)


def _fail(watch: Watch, sight: Sight, instrument: Instrument, run: str, why: str) -> None:
    place = instrument.name.encode() + b"/" + from_json(run)
    sight.troubles.append(RunFailed(why, place))
    watch.log.event(LOG_FAIL, place, why)


def _forget_verdicts(watch: Watch, view: View, before: Remembered) -> None:
    """Only what has been written down may go."""
    state, name = watch.memory.directory, view.instrument.name
    for run, standing in checking(before).items():
        after = view.remembered.runs.get(run)
        path = verdict_path(state, name, run, standing)
        is_awaited = after is not None and after.verdict == CHECKING
        if after is None or not is_awaited or path != verdict_path(state, name, run, after):
            drop_verdict(path, keep_log=after is not None and after.verdict == UNCHECKED)


def _own_locks(watch: Watch) -> Iterator[Condition]:
    for name, patience in watch.patience.items():
        why = held_too_long(watch.memory.directory, name, patience)
        if why:
            yield of_held_lock(why)


def _own_disks(watch: Watch) -> Iterator[Condition]:
    try:
        disk = os.statvfs(watch.root)
    except OSError as error:
        raise _lost(watch, error) from error
    yield from of_disk(
        "",
        shown(watch.root),
        disk.f_bavail * disk.f_frsize,
        disk.f_blocks * disk.f_frsize,
        watch.limits,
    )
