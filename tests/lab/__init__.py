"""Stand-ins for the real world: a sequencer, a cluster behind ssh, an older rsync.

The tests, the demonstration and the benchmarks use them. They need nothing but the standard
library, OpenSSH and rsync, and run as root or as an ordinary user.
"""
