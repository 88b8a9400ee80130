"""The systemd units, as far as they can be judged without systemd running them."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.processes import ROOT
from tests.support.tools_available import needed

UNITS = sorted((ROOT / "deploy" / "systemd").iterdir())
SERVICES = [unit for unit in UNITS if unit.suffix == ".service"]
PLACE = "/opt/mistral-batch-gateway"


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The units with this checkout and its Python in place of the installed ones: systemd looks whether they are there."""
    folder = tmp_path_factory.mktemp("units")
    for unit in UNITS:
        text = unit.read_text().replace(f"{PLACE}/.venv/bin", str(Path(sys.executable).parent))
        (folder / unit.name).write_text(text.replace(PLACE, str(ROOT)))
    return folder


def analyze(*words: str) -> subprocess.CompletedProcess[str]:
    command = [needed("systemd-analyze", "apt-get install systemd"), *words]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_systemd_finds_no_fault_with_the_units(here: Path) -> None:
    checked = analyze("verify", *(str(here / unit.name) for unit in UNITS))
    assert (checked.returncode, checked.stdout + checked.stderr) == (0, "")


@pytest.mark.parametrize("unit", SERVICES, ids=lambda unit: unit.name)
def test_a_service_is_exposed_as_little_as_a_network_service_can_be(here: Path, unit: Path) -> None:
    # Of 100; 20 is what systemd calls OK, and what it counts here is mostly the network itself.
    judged = analyze("security", "--offline=true", "--threshold=20", str(here / unit.name))
    assert judged.returncode == 0, judged.stdout


@pytest.mark.parametrize("unit", SERVICES, ids=lambda unit: unit.name)
def test_no_secret_is_in_a_unit(unit: Path) -> None:
    assignments = re.findall(r"^Environment=(\w+)=", unit.read_text(), re.MULTILINE)
    secret = [
        n for n in assignments if re.search("KEY|TOKEN|SECRET", n) and not n.endswith("_FILE")
    ]
    assert secret == []
