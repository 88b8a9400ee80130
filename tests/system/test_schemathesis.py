"""schemathesis, with every phase and check that applies, finds nothing wrong with the running service."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from tests.support.gateway import Stack
from tests.support.processes import ROOT

OPTIONS = {
    "--phases": "examples,coverage,fuzzing,stateful",
    "--checks": "all",
    # A document in OpenAPI 3.0 cannot say everything that a valid request must fulfil; schemathesis_hooks has
    # a check of its own in the place of this one, and says what it leaves out and why.
    "--exclude-checks": "positive_data_acceptance",
    "--max-examples": "15",  # take a quarter of a minute
    "--seed": "1",
    "--generation-database": "none",
    "--max-response-time": "5",
}


def test_no_generated_request_finds_a_fault(stack: Stack, tmp_path: Path) -> None:
    arguments = [argument for option in OPTIONS.items() for argument in option]
    done = subprocess.run(
        [
            *(Path(sys.executable).with_name("schemathesis"), "--no-color", "run"),
            *(f"{stack.gateway.url}/openapi.json", "--continue-on-failure", *arguments),
        ],
        cwd=tmp_path,
        env={
            **os.environ,
            "PYTHONPATH": str(ROOT),
            "SCHEMATHESIS_HOOKS": "tests.system.schemathesis_hooks",
        },
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=110,
    )
    assert done.returncode == 0, done.stdout
