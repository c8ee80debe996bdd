"""What one instrument may cost, whatever it sends; what exceeds that is told by its name.

A fleet that is far from any of these is the rule: they keep one that went wild, or that a stranger
sends for, from filling memory and disk or holding up the look at all others. docs/security.md has
the same table for people.
"""

# Bytes. Twenty thousand runs as an instrument tells them take less.
LARGEST_HEARTBEAT = 8 << 20
# Values in it, told by brackets and commas: a pair of brackets is three bytes, and costs a hundred.
MOST_VALUES = 500_000
# An instrument has one, and keeps one of each name that it had before.
MOST_HEARTBEATS = 1000
# Of those that are renewed in one directory, the newest are held against each other.
MOST_SENDERS = 10
# Told by a heartbeat, or remembered.
MOST_RUNS = 20_000
# Levels and bytes of a run's path below its instrument's directory; MinKNOW has three levels.
DEEPEST_RUN = 16
LONGEST_RUN = 1000
# Characters of the names of files that are remembered of all its runs.
MOST_REMEMBERED = 4 << 20

# Bytes. Ours has less than one thousand, and is remembered by the first line.
LARGEST_MARK = 64 << 10
LONGEST_DATE = 40
# It is read while nothing else is looked at. A run of ten million files has a smaller one.
LARGEST_ROLLUP = 1 << 30  # bytes
# Bytes of roll-ups of new runs that one look reads, each a block at least, and its time for them.
MOST_ROLLUPS = 1 << 30
LOOK_SECONDS = 10.0
ROLLUP_BLOCK = 64 << 10
# Roll-ups that lie in the state for `pull`, of one sequencer.
MOST_STAGED = 32 << 30  # bytes
# Of a run's final summaries, and bytes of each; a second acquisition leaves a second one.
MOST_SUMMARIES = 20
LARGEST_SUMMARY = 64 << 10
# Bytes of a line in MinKNOW's output_hash_*.csv.
LONGEST_ROW = 16 << 10

# Of directories, in one search of its tree; a run's own directories are not searched.
MOST_ENTRIES = 500_000
MOST_SECONDS = 60.0
# Commands of on_verified that are started for its runs in one day; the others wait for the next.
MOST_HOOKS = 500
# Of what a program that is called says on standard error: so much of its beginning and its end.
MOST_SAID = 256 << 10  # bytes
# Of the lines in that.
MOST_COMPLAINTS = 5_000
# A line that rsync prints names one file; each byte of a path of 4096 becomes five at worst.
LONGEST_LINE = 64 << 10  # bytes
# What a program of ours or of Slurm's answers, which is held in memory. A run takes up to 3 kB.
LARGEST_ANSWER = 64 << 20  # bytes
# Of one tick, for asking whether the files of verified runs are still there; and of one run.
WALK_SECONDS = 60.0
RUN_WALK_SECONDS = 60.0

# Bytes of a run that no disk holds: what is sent as a hole takes no time to send, and long to read.
MOST_HOLES = 1 << 30
# Levels of directories in a run.
DEEPEST_FILE = 64
# Files that a verification for the monitor names of each kind that is wrong; it counts all.
MOST_NAMED = 100
