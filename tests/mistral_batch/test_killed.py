"""The command, killed at any moment and run again: each chunk is bought once, and the table has every row once, in order."""

from __future__ import annotations

import json
import random
import subprocess
import sys
import time
from pathlib import Path

from tests.support.api import jobs
from tests.support.gateway import gateway_process
from tests.support.processes import ROOT, environment, sandbox_process

KILLS = 4
ROWS = 500
SMALL_CHUNKS = f"""
from mistral_batch import chunks
chunks.plan.__defaults__ = (chunks.Limits({ROWS // 5}, 1 << 20),)
from mistral_batch.__main__ import main
main()
"""


def test_a_run_that_is_killed_again_and_again_buys_each_chunk_once(tmp_path: Path) -> None:
    table, joined = tmp_path / "table.csv", tmp_path / "joined.jsonl"
    ids = [f"r{number}" for number in random.sample(range(10_000), ROWS)]
    table.write_text("".join(f"{row}\n" for row in ["id", *ids]))
    with sandbox_process(speed=120) as sandbox, gateway_process(f"{sandbox.url}/v1") as gateway:
        environ = environment(MISTRAL_BATCH_URL=gateway.url, MISTRAL_BATCH_HOME=tmp_path / "home")
        run = ["run", str(table), "--id", "id", "--prompt", "What is {id}?", "--model", "m"]
        options = ["--pending", f"{ROWS // 2}", "--yes", "-o", str(joined)]
        for kill in range(KILLS + 1):
            with subprocess.Popen(
                [sys.executable, "-c", SMALL_CHUNKS, *run, *options],
                cwd=ROOT, env=environ, stderr=subprocess.PIPE, text=True,
            ) as process:  # fmt: skip
                assert process.stderr
                said = process.stderr.readline()  # it has read the table
                if kill < KILLS:
                    time.sleep(random.uniform(0, 1))  # a moment of its life, any
                    process.kill()
                said += process.stderr.read()
            if process.returncode == 0:
                break
        assert process.returncode == 0, said
        assert len(sandbox.ledger(method="POST", path="/v1/batch/jobs")) == len(jobs(sandbox)) == 5
    rows = [json.loads(line) for line in joined.read_text().splitlines()]
    assert [row["id"] for row in rows] == ids
    assert all(row["answer"] and not row["error"] for row in rows)
