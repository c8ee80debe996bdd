"""How a run goes from disk to cluster: find, look, sums, rollup, send, confirm, mark."""
