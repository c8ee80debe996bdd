"""The roles and playbooks on the hosts of the lab, looked at from outside.

`./inv fleet` brings the hosts up, converges them and calls these tests; with a lab that is up and
converged (`./inv lab`), so does `python -m pytest tests/fleet --lab .lab`.
"""
