"""The fleet under test: the lab that `--lab` names, its hosts converged by the playbooks."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fleet.hosts import CHECKOUT, Fleet, Machine
from tests.fleet.monitored import HOME, is_on, switch_off, variables
from tests.lab.hosts.table import SEQUENCERS

# The fleet is one, so are the tests: what a file leaves behind, the next one finds.
LAST = "test_removal"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Remove the fleet last."""
    items.sort(key=lambda item: item.path.stem == LAST)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Repeat a test that takes a `sequencer` for each that is there."""
    if "sequencer" in metafunc.fixturenames:
        try:
            names = [machine.name for machine in Fleet(lab(metafunc.config)).sequencers]
        except FileNotFoundError:
            names = [host.name for host in SEQUENCERS]
        metafunc.parametrize("sequencer", names, indirect=True)


def lab(config: pytest.Config) -> Path:
    """The state directory of the lab."""
    return CHECKOUT / str(config.getoption("--lab"))


@pytest.fixture(scope="session")
def fleet(pytestconfig: pytest.Config) -> Fleet:
    """All hosts of the lab."""
    try:
        return Fleet(lab(pytestconfig))
    except FileNotFoundError:
        pytest.fail(f"no lab at {lab(pytestconfig)}: bring one up with ./inv lab")


@pytest.fixture
def sequencer(fleet: Fleet, request: pytest.FixtureRequest) -> Machine:
    """One host where runs are written."""
    return fleet.machines[request.param]


@pytest.fixture(scope="module")
def home(fleet: Fleet) -> str:
    """What the login user had before."""
    return fleet.cluster.root(HOME)


@pytest.fixture(scope="module")
def monitored(fleet: Fleet, home: str) -> Iterator[Fleet]:
    """The fleet with a monitor at the cluster, called by cron every minute."""
    try:
        played = fleet.play("cluster", *variables())
        assert played.code == 0, played.out
        yield fleet
    finally:
        if is_on(fleet):
            switch_off(fleet)
