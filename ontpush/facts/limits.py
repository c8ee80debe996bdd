"""What one instrument may cost, whatever it sends; what exceeds that is told by its name.

A fleet that is far from any of these is the rule: they keep one that went wild, or that a stranger
sends for, from filling the disk of the state or holding up the look at all others.
"""

LARGEST_HEARTBEAT = 16 << 20  # bytes
# It is read while nothing else is looked at. A run of ten million files has a smaller one.
LARGEST_ROLLUP = 1 << 30  # bytes
# An instrument has one, and keeps one of each name that it had before.
MOST_HEARTBEATS = 1000
# Of those that are renewed in one directory, the newest are held against each other.
MOST_SENDERS = 20
# Told by a heartbeat, or remembered.
MOST_RUNS = 20_000
# Roll-ups that lie in the state for `pull`, of one sequencer.
MOST_STAGED = 32 << 30  # bytes
# Of directories, in one search of its tree; a run's own directories are not searched.
MOST_ENTRIES = 500_000
MOST_SECONDS = 60.0
# Of one tick, for asking whether the files of verified runs are still there.
WALK_SECONDS = 60.0
# Of a message of an instrument, or of a value in a final summary, as it is quoted.
LONGEST_WORDS = 500  # characters
# Of one kind, that are told one by one; of more only how many there are.
MOST_TOLD = 500  # runs
# What waits for those who are told, of all instruments; a message takes at least its share.
LARGEST_OUTBOX = 16 << 20  # bytes
MOST_WAITING = 1000  # messages
# Of a letter to a service that splits what is long into pieces.
LONGEST_CHAT = 40_000  # characters
