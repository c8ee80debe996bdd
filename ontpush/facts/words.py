"""The words of the interface: states of a run, words of the log, names of our own files."""

NEW = "new"
SENDING = "sending"
WAITING = "waiting"
STALLED = "stalled"
DONE = "done"
SKIPPED = "skipped"
FAILED = "failed"

LOG_SCAN = "SCAN"
LOG_SYNC = "SYNC"
LOG_DONE = "DONE"
LOG_SKIP = "SKIP"
LOG_MARK_DONE = "MARK DONE"
LOG_FAIL = "FAIL"
LOG_REOPEN = "REOPEN"
LOG_STALL = "STALL"
LOG_WARN = "WARN"
ONLY_WITH_VERBOSE = frozenset([LOG_SCAN, LOG_DONE, LOG_SKIP])

# Of a data folder where nothing but that folder says that there is a run.
LEFT_OUT = "makes no run of where it lies, as runs lie beside it: move it into its run, or away"
HIDDEN = "a run where none is looked for: move it if it is to be sent"
NO_RUN_OF_ITS_OWN = "vouched for no run of its own: removed"

ROLLUP = b"md5sum"
DONE_MARK = b"rsync.done"
SKIP_MARK = b"rsync.skip"
VERIFIED_MARK = b"rsync.verified"
# Ours at every depth of a run, never one of its files; a roll-up is so at its top only.
MARKS = frozenset([DONE_MARK, SKIP_MARK, VERIFIED_MARK])
VOUCHING_MARKS = (DONE_MARK, VERIFIED_MARK)
OWN_FILES = frozenset([ROLLUP, DONE_MARK, SKIP_MARK, VERIFIED_MARK])
SIDECAR_SUFFIX = b".md5"
# What is being written stands under its name and this suffix until it is whole.
UNFINISHED_SUFFIX = b".ontpush-new"
HEARTBEAT_DIRECTORY = b".ontpush"
# Beside a heartbeat: not empty when the cluster asks for something, and what it asks for.
BELL_SUFFIX = b".bell"
REQUEST_DIRECTORY = HEARTBEAT_DIRECTORY + b"/again"
# Which instrument sends there: the last one of all, and that of each run.
OWNER = HEARTBEAT_DIRECTORY + b"/owner"
OWNERS_DIRECTORY = HEARTBEAT_DIRECTORY + b"/owners"

# What the cluster tells people of.
VERIFIED = "verified"
VERIFICATION_FAILED = "verification-failed"
EXTRA = "extra"
SILENT = "silent"
BACK = "back"
DISK = "disk"
COUNTS = "counts"
HOOK_FAILED = "hook-failed"
KINDS = (
    VERIFIED,
    VERIFICATION_FAILED,
    EXTRA,
    FAILED,
    STALLED,
    SILENT,
    BACK,
    DISK,
    COUNTS,
    HOOK_FAILED,
)
