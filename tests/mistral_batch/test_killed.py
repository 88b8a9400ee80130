"""Processes that are killed at any moment, and run again: each chunk is bought once, and each row has one result."""

from __future__ import annotations

import random
import subprocess
import sys
import time
from pathlib import Path

from tests.mistral_batch.carrying import asked, lines, results
from tests.support.api import jobs
from tests.support.gateway import gateway_process
from tests.support.processes import ROOT, environment, sandbox_process

KILLS = 4
COUNT = 500


def test_a_run_that_is_killed_again_and_again_buys_each_chunk_once(tmp_path: Path) -> None:
    chance = random.Random()
    with sandbox_process(speed=120) as sandbox, gateway_process(f"{sandbox.url}/v1") as gateway:
        module = "tests.mistral_batch.carrying"
        command = [sys.executable, "-m", module, gateway.url, "", str(tmp_path), "row", str(COUNT)]
        for kill in range(KILLS + 1):
            process = subprocess.Popen(
                command, cwd=ROOT, env=environment(), stdout=subprocess.PIPE, text=True
            )
            with process:
                assert process.stdout and process.stdout.readline() == "begun\n"
                if kill < KILLS:
                    time.sleep(chance.uniform(0, 0.5))  # a moment of its life, any
                    process.kill()
                process.stdout.read()
            if process.returncode == 0:
                break
        assert process.returncode == 0
        assert len(sandbox.ledger(method="POST", path="/v1/batch/jobs")) == len(jobs(sandbox)) == 5
    assert results(tmp_path) == asked(lines("row", COUNT))
