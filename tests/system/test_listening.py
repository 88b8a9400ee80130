"""What `make run` starts listens where the documents say, and nowhere else."""

from __future__ import annotations

import re
import subprocess

from tests.stack.conftest import environment as environment  # a fixture
from tests.stack.conftest import processes_of, started
from tests.support.tools_available import needed

SETTINGS = ("GATEWAY_PORT", "BRIDGE_PORT", "SANDBOX_PORT")


def listening(pids: set[int]) -> dict[str, set[int]]:
    """The addresses at which any of the processes takes connections or datagrams, with the processes."""
    command = [needed("ss", "apt-get install iproute2"), "--no-header", "-lntupx"]
    lines = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    found: dict[str, set[int]] = {}
    for line in lines:
        owners = {int(pid) for pid in re.findall(r"pid=(\d+)", line)} & pids
        if owners:
            network, _, _, _, address = line.split()[:5]
            found.setdefault(f"{network} {address}", set()).update(owners)
    return found


def test_all_that_is_started_listens_on_the_three_ports_of_its_settings_on_loopback(
    environment: dict[str, str],
) -> None:
    with started(environment):
        found = listening(set(processes_of(environment)))
    assert set(found) == {f"tcp 127.0.0.1:{environment[name]}" for name in SETTINGS}
