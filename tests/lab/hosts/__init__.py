"""A lab of real hosts: three sequencers and a cluster, made on this machine from Debian's packages.

Each host is a container that boots systemd, with sshd, cron, a name and an address of its own on
a network of its own. No image comes from a registry: `mmdebstrap` makes them, and they are kept
for the next time. Needs root, and podman, runc and mmdebstrap, which `./inv lab` installs.

    python -m tests.lab.hosts up      # make the hosts and write .lab/
    python -m tests.lab.hosts down    # remove all of it, also what is half made

`.lab/inventory` is for Ansible, `.lab/ssh_config` for people, `.lab/key` lets both in. Several labs
can be up at once: each belongs to its state directory (`--state`).

How the hosts differ is written in `table`; `images` makes what they boot from, `podman` starts
and ends them, `access` writes keys and inventory, `lab` does all of it in order.
"""
