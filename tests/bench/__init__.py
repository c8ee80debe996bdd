"""The benchmark: what `ontpush` takes beside the tools it could be replaced by.

`trees` makes the runs, `measure` reads the operating system's books, `rows` holds one function
for each piece of work, `table` shows what came of them. A benchmark, not a timed test: it prints,
and fails only where something does not run.
"""
