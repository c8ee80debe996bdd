"""The cluster's side as the playbooks set it up, change it and take it away."""

from __future__ import annotations

from ontpush import __version__
from tests.fleet.hosts import LONG, Fleet
from tests.fleet.monitored import HOME, sources, switch_off, variables

pytestmark = LONG


def test_laid_again_nothing_changes_and_the_version_is_that_of_the_checkout(
    monitored: Fleet,
) -> None:
    # What is set for the sequencers, to leave a version again, says nothing about the cluster.
    for options in (["-e", "ontpush_version=0.0.1"], ["--check"]):
        played = monitored.play("cluster", *variables(), *options)
        assert played.code == 0, played.out
        assert not any(played.changed.values()), played.out
    told = monitored.cluster.user("~/.local/bin/ontpush --version").stdout
    assert told.strip() == __version__


def test_a_configuration_that_is_wrong_never_takes_over(monitored: Fleet) -> None:
    config = "cat /home/seqdata/.config/ontpush/config.yml"
    before = monitored.cluster.root(config)
    played = monitored.play("cluster", *variables(notfy=[]))
    assert played.code != 0
    assert "unknown key 'notfy'; did you mean notify?" in played.out
    assert monitored.cluster.root(config) == before


def test_what_is_done_to_one_sequencer_concerns_no_other(monitored: Fleet) -> None:
    first, second = monitored.sequencers[:2]
    to_pull = ("-e", "ontpush_pull=true", *variables())
    try:
        for machine in (first, second):
            played = monitored.play("monitor", "--limit", machine.name, *to_pull)
            assert played.code == 0, played.out
        assert sources(monitored) == sorted([first.name, second.name])
        assert monitored.play("remove", "--limit", first.name).code == 0
        assert sources(monitored) == [second.name]
    finally:
        both = f"{first.name},{second.name}"
        played = monitored.play("site", "--limit", both, *variables())
    assert played.code == 0, played.out
    assert sources(monitored) == []


def test_switched_off_it_leaves_nothing(monitored: Fleet, home: str) -> None:
    switch_off(monitored)
    assert monitored.cluster.root(HOME) == home
