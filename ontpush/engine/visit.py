"""One visit to one run: look, carry over, publish the roll-up; when finished confirm and mark.

The order is the safety: a roll-up is published after the bytes it lists, the done mark last
of all, and what has to be sent anew is taken out of the roll-up first.
"""

import os
import time
from typing import Any, Dict, List, Optional, Set

from ontpush import __version__
from ontpush.engine.carry import Carried, carry
from ontpush.engine.claims import claim_place, refuse_contested
from ontpush.engine.confirm import confirm
from ontpush.engine.counts import warning_of_counts
from ontpush.engine.deliver import deliver
from ontpush.engine.find import Found, final_summaries, list_directory
from ontpush.engine.hashing import file_trouble
from ontpush.engine.ledger import RunRecord
from ontpush.engine.look import Look, Tokens
from ontpush.engine.mark import mark_lines, md5_of_rollup, remove_marks, take_back
from ontpush.engine.publish import (
    install,
    md5_of_listed,
    publish,
    retract,
    withdraw_everything,
)
from ontpush.engine.recover import believe_mark, recover_listed
from ontpush.engine.reread import read_again, reread
from ontpush.engine.rollup import write_whole
from ontpush.engine.skipped import Skipped, heed_skip
from ontpush.engine.stock import is_due, stalls, take_stock, unreadable_paths, update
from ontpush.engine.tick import RunInHand, Tick
from ontpush.facts import words
from ontpush.facts.names import below, human_size, human_time, named_in_mark, plural, shown
from ontpush.facts.regular import open_regular
from ontpush.facts.trouble import RunFailed, Trouble, Unexpected, unwritten

_ROUNDS = 3
_NAMED_FILES = 5


class Visit:
    """One run in one tick. `record` is what the ledger has of it; `carried` what went over."""

    def __init__(self, tick: Tick, found: Found, record: RunRecord, known: Tokens) -> None:
        self._tick = tick
        self._found = found
        self._known = known
        self._names = found.names
        relative = below(found.path, tick.source)
        self.run = RunInHand(record.id, found.path, relative)
        self.record = record
        self.carried = Carried(0, 0, [])
        self._tried = False

    def go(self) -> None:
        """Bring the run as far as it goes now. Trouble, of this run or of the whole tick."""
        try:
            self._go()
        except Skipped:
            self._skip()

    def _go(self) -> None:
        if words.SKIP_MARK in self._names:
            raise Skipped
        self._log(words.LOG_SCAN)
        look = self._look_around()
        if self.record.state == words.DONE:
            self._raise_trouble(look)
            self._log(words.LOG_DONE)
        elif look or self.record.state not in (words.WAITING, words.STALLED):
            self._bring_over(look)
        else:
            self._leave(self._rest_state())

    # -- looking ------------------------------------------------------------------------

    def _skip(self) -> None:
        reason = first_line(os.path.join(self.run.path, words.SKIP_MARK))
        self._log(words.LOG_SKIP, reason)
        self._leave(words.SKIPPED)

    def _look_around(self) -> Optional[Look]:
        """Tell the ledger what has changed; None where nothing can have."""
        refuse_contested(self._tick, self.record)
        is_known = self.record.destination == self._tick.transport.destination.text
        if not is_known or self.record.claim is None:
            return self._first_look()
        was_done = self.record.state == words.DONE
        if was_done and not {words.DONE_MARK, words.ROLLUP} <= self._names:
            self._update(state=words.SENDING)
        unfinished = self.record.state in (words.NEW, words.SENDING, words.FAILED)
        full = unfinished or is_due(self.record) or self._seems_to_stall()
        look = self._take_stock(self._known, full)
        if self.record.state != words.DONE:
            self._take_mark_back(was_done)
        return look

    def _seems_to_stall(self) -> bool:
        """Whether the run would be called stalled, unless a file grows that nobody watches."""
        record = self.record
        may = record.state == words.WAITING and not final_summaries(self._found)
        return may and stalls(record, self._tick.stall_seconds)

    def _first_look(self) -> Optional[Look]:
        """The run is new to the ledger, goes to another place than before, or claims it back."""
        tick, run = self._tick, self.run
        self._keep_apart()
        self.record = claim_place(tick, self.record)
        with tick.ledger.writing():
            tick.ledger.forget_deliveries(run.id)
            self._update(state=words.NEW, rollup=None, done_at=None, first_sent_at=None)
        vouched = recover_listed(tick, run)
        look = self._take_stock(tick.ledger.tokens_of(run.id), full=True)
        if not vouched:
            self._take_mark_back(False)
        self._retract(but_its_own=vouched is not None)
        if vouched and believe_mark(tick, run):
            self._update(state=words.DONE, rollup=vouched, done_at=_now(), **self._sizes())
        elif vouched:
            self._take_mark_back(False)
            # Run and mark may be older than what lies there: somebody put them back.
            withdraw_everything(tick, run)
        self._update(destination=tick.transport.destination.text)
        return look

    def _keep_apart(self) -> None:
        """Two runs in one place, or one in the other, would overwrite each other's files.

        Below one source the search has seen to that. One directory may have two paths, as where it
        is mounted twice: it is known by the one that it was found by last.
        """
        own = self.run.relative
        for other in self._tick.ledger.runs():
            if (
                other.path != self.run.path
                and other.destination == self._tick.transport.destination.text
                and _overlap(below(other.path, other.source or b"/"), own)
                and os.path.isdir(other.path)
            ):
                if os.path.samefile(other.path, self.run.path):
                    self._tick.ledger.update_run(other.id, gone_at=_now())
                    continue
                raise RunFailed(
                    f"{shown(other.path)} goes to the same place at {other.destination}: rename one"
                    " of the two, or give one source another destination",
                    own,
                )

    def _retract(self, but_its_own: bool = False) -> None:
        for directory in retract(self._tick, self.run, but_its_own):
            self._log(
                words.LOG_WARN,
                f"a mark in {shown(directory)} at the destination vouched for no run of its own:"
                " retracted",
            )

    def _take_stock(self, known: Tokens, full: bool) -> Optional[Look]:
        tick = self._tick
        look, self.record = take_stock(
            tick.ledger, tick.rules, self.record, self._found, known, full
        )
        for path in look.special if look else ():
            self._log(
                words.LOG_WARN,
                f"left out, neither file nor link: {shown(below(path, self.run.path))}",
            )
        marks = look.marks if look else []
        for path in remove_marks(self.run.path, marks):
            self._log(words.LOG_WARN, f"{shown(path)} {words.NO_RUN_OF_ITS_OWN}")
        for path in marks:
            if os.path.lexists(os.path.join(self.run.path, path)):
                self._log(words.LOG_WARN, f"left out, has the name of a mark: {shown(path)}")
        return look

    def _take_mark_back(self, was_done: bool) -> None:
        """A run that is not done must not look done to whoever frees space here.

        Before anything is withdrawn at the destination, which a killed tick may leave so.
        """
        if take_back(self.run.path, self._tick.transport.destination.text) or was_done:
            self._log(words.LOG_REOPEN, "it is no longer what its done mark vouches for")

    # -- bringing over ------------------------------------------------------------------

    def _bring_over(self, look: Optional[Look]) -> None:
        tick, run = self._tick, self.run
        unsent = tick.ledger.totals(run.id).unsent
        if unsent:
            self._update(state=words.SENDING, first_sent_at=self.record.first_sent_at or _now())
            self._log(words.LOG_SYNC, "{} to send".format(plural(unsent, "file")))
            self._carry()
        self._publish()
        self._raise_trouble(look)
        if tick.ledger.doubted_after(run.id) is not None:
            self._reread(look)
        if self._is_finished(look):
            self._finish()
        else:
            self._leave(self._rest_state())

    def _carry(self) -> None:
        self._tried = True
        here = md5_of_rollup(self.run.path)
        if here and here != (self.record.rollup or md5_of_listed(self._tick, self.run)):
            # The ledger may be older than the run, which somebody put back: then it does not know
            # what the roll-up at the destination lists.
            withdraw_everything(self._tick, self.run)
        self._retract()
        # Until the next roll-up has been delivered nobody knows which one lies there.
        self._update(rollup=None)
        begun = time.monotonic()
        carried = carry(self._tick, self.run)
        before = self.carried
        self.carried = Carried(
            before.files + carried.files,
            before.bytes + carried.bytes,
            before.trouble + carried.trouble,
        )
        took = time.monotonic() - begun
        if carried.files:
            self._log(
                words.LOG_SYNC,
                "{}, {} sent in {}".format(
                    plural(carried.files, "file"), human_size(carried.bytes), human_time(took)
                ),
            )

    def _publish(self) -> None:
        heed_skip(self.run.path)
        os.lstat(self.run.path)  # what is gone with the whole run is not gone from it
        if not self._is_published():
            md5, changed = publish(self._tick, self.run)
            self._update(rollup=md5)
            try:
                install(self._tick, self.run, changed)
            except OSError as error:
                raise unwritten(words.ROLLUP, error, self.run.relative) from error

    def _is_published(self) -> bool:
        """Whether the roll-up of all that was sent lies at both ends."""
        ledger = self._tick.ledger
        if ledger.rollup_is_stale(self.run.id):
            return False
        if self.record.rollup is None:
            return not ledger.totals(self.run.id).sent_files
        return md5_of_rollup(self.run.path) == self.record.rollup

    def _raise_trouble(self, look: Optional[Look] = None) -> None:
        trouble = self.carried.trouble
        if look:
            trouble = unreadable_paths(look, self.run.path) + trouble
        if trouble:
            raise file_trouble(self.run.relative, trouble, "the rest was sent")

    def _reread(self, look: Optional[Look]) -> None:
        """Take all sums anew: the cluster, or a person, doubts them. RunFailed."""
        tick, run = self._tick, self.run
        tick.progress.begin(run.relative, "hashing", self.record.files, self.record.bytes)
        lost, trouble = reread(tick, run)
        if tick.ledger.totals(run.id).unsent:
            self._carry()
        self._publish()
        self._raise_trouble()
        if trouble:
            raise file_trouble(run.relative, trouble, "the next tick reads it again")
        if lost and not self._is_finished(look):
            raise self._kept(lost[0])

    # -- finishing ----------------------------------------------------------------------

    def _is_finished(self, look: Optional[Look]) -> bool:
        has_ended = self.record.files > 0 and bool(final_summaries(self._found))
        return has_ended and not (look and look.unsettled)

    def _finish(self) -> None:
        """Confirm the whole run at the destination, look at every file again, and mark it."""
        self._warn_of_counts()
        try:
            self._make_equal()
        except RunFailed:
            if not self._has_changed_meanwhile():
                raise
            self._leave(words.SENDING)
            return
        if self._has_changed_meanwhile():
            self._leave(words.SENDING)
        else:
            self._mark()

    def _warn_of_counts(self) -> None:
        names = self._tick.ledger.names(self.run.id)
        warning = warning_of_counts(self.run.path, final_summaries(self._found), names)
        if warning and warning != self.record.warning:
            self._log(words.LOG_WARN, warning)
        self._update(warning=warning)

    def _make_equal(self) -> None:
        """Compare, and send what differs again, until nothing does. RunFailed if that never is."""
        tick, run = self._tick, self.run
        for _ in range(_ROUNDS):
            different = confirm(tick, run, tick.ledger.totals(run.id))
            if not different:
                return
            found = read_again(run.path, tick.ledger.files_at(run.id, different), 1)
            kept = {file.path for file in found.other} | {path for path, _ in found.trouble}
            touched = {file.path for file in found.touched} | {words.ROLLUP}
            again = [path for path in different if path not in kept]
            if again:
                self._tell_different(again, touched)
                self._send_again(again)
            if kept:
                raise self._kept(min(kept))
        raise RunFailed(
            f"{shown(different[0])} and perhaps others differ at the destination however often they"
            " are sent: look at the disks and the memory of both ends",
            run.relative,
        )

    def _kept(self, path: bytes) -> RunFailed:
        """Why a file that differs at the destination is not sent there."""
        return RunFailed(
            f"{shown(path)} reads otherwise than when it was hashed, and nobody changed it: this"
            " disk is failing; the copy at the destination is kept as it is (if `ontpush verify`"
            " there finds that one bad too, touch the file here, and it is sent)",
            self.run.relative,
        )

    def _tell_different(self, paths: List[bytes], touched: Set[bytes]) -> None:
        for path in paths[:_NAMED_FILES]:
            whose = "" if path in touched else " (disk and sum agree here: the copy was corrupt)"
            what = f"differs at the destination, sent again: {shown(path)}{whose}"
            self._log(words.LOG_WARN, what)
        if len(paths) > _NAMED_FILES:
            more = plural(len(paths) - _NAMED_FILES, "file")
            self._log(words.LOG_WARN, f"differ at the destination, sent again: {more} more")

    def _send_again(self, different: List[bytes]) -> None:
        with self._tick.ledger.writing():
            self._tick.ledger.distrust_paths(self.run.id, different)
        self._carry()
        self._raise_trouble()
        self._publish()

    def _has_changed_meanwhile(self) -> bool:
        """A fresh look at every file, whatever the directories say."""
        ledger = self._tick.ledger
        self._found = Found(self.run.path, list_directory(self.run.path))
        look = self._take_stock(ledger.tokens_of(self.run.id), full=True)
        self._raise_trouble(look)
        return bool(look and (look.changed or look.gone)) or bool(ledger.totals(self.run.id).unsent)

    def _mark(self) -> None:
        tick, record, now = self._tick, self.record, _now()
        facts = {
            "run": named_in_mark(self.run.relative),
            "instrument": tick.instrument,
            "destination": tick.transport.destination.text,
            "rollup": record.rollup,
            "files": record.files,
            "bytes": record.bytes,
            "version": __version__,
        }
        lines = mark_lines(now, facts)
        heed_skip(self.run.path)
        name = self.run.relative + b"/" + words.DONE_MARK
        changed = deliver(tick.transport, tick.outbox, name, lines)
        try:
            write_whole(os.path.join(self.run.path, words.DONE_MARK), lines, changed)
        except OSError as error:
            raise unwritten(words.DONE_MARK, error, self.run.relative) from error
        # The very second that the mark tells: by it the cluster knows a new mark from the old.
        self._update(done_at=now)
        self._leave(words.DONE)
        self._log(
            words.LOG_MARK_DONE,
            "{}, {}".format(plural(record.files, "file"), human_size(record.bytes)),
        )

    # -- the record ---------------------------------------------------------------------

    def _rest_state(self) -> str:
        """What a run is called that has nothing left to send and is not done."""
        if final_summaries(self._found) or not stalls(self.record, self._tick.stall_seconds):
            return words.WAITING
        if self.record.state != words.STALLED:
            idle = time.time() - self.record.changed_ns / 10**9
            self._log(
                words.LOG_STALL,
                f"no final summary, and nothing has changed for {human_time(idle)}",
            )
        return words.STALLED

    def _leave(self, state: str) -> None:
        """Note how the run stands, and that nothing failed."""
        if not self._tried:
            self._update(state=state, error=None)
            return
        unsent = self._tick.ledger.totals(self.run.id).unsent
        if unsent and state in (words.WAITING, words.STALLED):
            state = words.SENDING
        self._update(state=state, error=None, **self._sizes())

    def _sizes(self) -> Dict[str, int]:
        """What the record says of files and bytes, as it is now."""
        totals = self._tick.ledger.totals(self.run.id)._asdict()
        del totals["unsent"]
        return dict(totals)

    def _update(self, **changes: Any) -> None:
        before, self.record = self.record, update(self._tick.ledger, self.record, changes)
        if self.record.state == words.DONE != before.state:
            # A thousand of these may be looked at in each tick.
            self._tick.ledger.watch_no_files(self.record.id)

    def note_trouble(self, trouble: Trouble) -> None:
        """Note that the visit ended in trouble, the run's own or that of the whole tick."""
        is_its_own = isinstance(trouble, (RunFailed, Unexpected))
        state = words.FAILED if is_its_own else self.record.state
        self._update(state=state, error=trouble.message, **self._sizes())

    def _log(self, word: str, details: str = "") -> None:
        self._tick.log.event(word, self.run.relative, details)


def _overlap(one: bytes, other: bytes) -> bool:
    """Whether two paths are the same, or one lies in the other."""
    return (one + b"/").startswith(other + b"/") or (other + b"/").startswith(one + b"/")


def first_line(path: bytes) -> str:
    """The first line of a small text file, for people; empty where it cannot be read."""
    try:
        with open_regular(path) as file:
            return shown(file.readline(1000).strip())
    except OSError:
        return ""


def _now() -> int:
    return int(time.time())
