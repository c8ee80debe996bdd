"""What one instrument may cost, whatever it sends; what exceeds that is told by its name.

A fleet that is far from any of these is the rule: they keep one that went wild, or that a stranger
sends for, from filling memory and disk or holding up the look at all others. docs/reference.md
shows this table: so each bound has one line of comment, and its unit behind it.
"""

# -- heartbeats

# A heartbeat.
LARGEST_HEARTBEAT = 8 << 20  # bytes
# Values in a heartbeat, told by brackets and commas: each may cost a hundred bytes of memory.
MOST_VALUES = 500_000
# Heartbeats of an instrument: it keeps one of each name that it had before.
MOST_HEARTBEATS = 1000
# Heartbeats renewed in one directory that are held against each other: the newest, together.
LARGEST_HEARTBEATS = 32 << 20  # bytes
# A text in a heartbeat, such as an error of a run; what is longer is cut.
LONGEST_TEXT = 2000  # characters
# Errors in a heartbeat that belong to no run, and names of what no run takes along.
MOST_TEXTS = 10
# Names beside heartbeats that are looked through for what broken transfers left.
MOST_BESIDE = 10_000
# Runs of an instrument that are told, or remembered.
MOST_RUNS = 20_000
# A run's path below its instrument's directory; MinKNOW has three levels.
DEEPEST_RUN = 16  # levels
# The same path.
LONGEST_RUN = 1000  # bytes
# Names of files in what is remembered of all runs of an instrument.
MOST_REMEMBERED = 4 << 20  # characters

# -- runs

# A done mark or one of ours; the rest of a longer one is not read.
LARGEST_MARK = 64 << 10  # bytes
# The first line of a mark, as it is remembered.
LONGEST_DATE = 40  # characters
# A roll-up.
LARGEST_ROLLUP = 1 << 30  # bytes
# Roll-ups of new runs of an instrument that one look reads; the rest waits for the next look.
MOST_ROLLUPS = 1 << 30  # bytes
# The least that a roll-up counts there.
ROLLUP_BLOCK = 64 << 10  # bytes
# What one look takes for new runs of an instrument.
LOOK_SECONDS = 60.0  # seconds
# What one look takes for an instrument in all.
INSTRUMENT_SECONDS = 180.0  # seconds
# Roll-ups of one sequencer that lie in the state for `pull`.
MOST_STAGED = 32 << 30  # bytes
# Final summaries of a run that are read.
MOST_SUMMARIES = 20
# The part of a final summary that is read.
LARGEST_SUMMARY = 64 << 10  # bytes
# Lines of that which are looked through.
MOST_SUMMARY_LINES = 200
# A line of MinKNOW's output_hash_*.csv.
LONGEST_ROW = 16 << 10  # characters
# Entries of directories in one search of an instrument's tree, which does not look into runs.
MOST_ENTRIES = 500_000
# The time for such a search.
MOST_SECONDS = 60.0  # seconds
# What a tick takes to ask whether the files of verified runs are still there.
WALK_SECONDS = 60.0  # seconds
# What it takes for one run.
RUN_WALK_SECONDS = 60.0  # seconds

# -- verification for the monitor

# Holes in all files of a run: they take no time to send, and long to read.
MOST_HOLES = 1 << 30  # bytes
# Levels of directories in a run.
DEEPEST_FILE = 64
# Files that are named of each kind that is wrong; all are counted.
MOST_NAMED = 100

# -- what follows

# Commands of on_verified that are started for an instrument in a day; the rest waits.
MOST_HOOKS = 500
# A message of an instrument, or a value in a final summary, as it is quoted.
LONGEST_WORDS = 500  # characters
# Runs of one kind that are told one by one; of more, how many there are.
MOST_TOLD = 500
# All that waits for those who are told; a message takes at least its share.
LARGEST_OUTBOX = 16 << 20  # bytes
# Messages that wait.
MOST_WAITING = 1000
# A letter to a service that splits what is long into pieces.
LONGEST_CHAT = 40_000  # characters

# -- programs that are called, on the sequencer too

# What one says on standard error: so much of its beginning, and of its end, is kept.
MOST_SAID = 256 << 10  # bytes
# Lines of that which are looked through.
MOST_COMPLAINTS = 5_000
# A line that rsync prints: it names one file, and a byte becomes five at worst.
LONGEST_LINE = 64 << 10  # bytes
# What a program of ours or of Slurm's answers; of a run it is up to 3 kB.
LARGEST_ANSWER = 64 << 20  # bytes
