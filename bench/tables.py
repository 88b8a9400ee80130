"""The command from a table to a table: what checking and joining take beside the least that others need, and a run that is killed again and again."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
import urllib.request
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from bench import soak, work
from bench.load import Sample, WrongAnswer
from bench.machine import CPUS, PEERS, ROOT
from bench.processes import Server
from bench.run import Run, Samples
from bench.targets import GATEWAY

COMMAND = (PEERS, "-m", "mistral_batch")
PROGRAMS = ROOT / "bench" / "peers"
OURS, PYARROW, POLARS = "mistral-batch", "pyarrow", "polars"
LOOP = "a loop of json.loads"
COLUMNS = ("MB/s", "seconds", "peak MiB")

LOOP_PROGRAM = """
import json, sys
with open(sys.argv[1], "rb") as lines:
    for line in lines:
        json.loads(line)
"""
SAME_PROGRAM = """
import sys, polars
first, *others = (polars.read_parquet(each, columns=["review", "answer"]) for each in sys.argv[1:])
assert first["answer"].null_count() == 0 and all(each.equals(first) for each in others)
"""
WHOLE_PROGRAM = """
import sys, polars
ids, rows = polars.read_parquet(sys.argv[1])["review"], polars.read_parquet(sys.argv[2])
assert rows["review"].equals(ids) and rows["answer"].null_count() == 0
for number, answer in enumerate(rows["answer"]):
    assert answer.startswith(f"Sandbox answer to: {number}:"), (number, answer)
"""

ROUNDS = 3
"""At most: each takes minutes."""

KILLS = 20
ROWS = 100_000
REPEATED = 12
"""How often a text is repeated in a row of the large run: its requests are too many bytes for one job."""


def check_lines(run: Run) -> None:
    """Check a file of a million requests, and read it by json.loads alone."""
    lines = _rows(run)
    file = run.folder / "requests.jsonl"
    with file.open("wb") as out:
        out.writelines(work.batch_lines(lines))
    commands = {
        OURS: (*COMMAND, "check", file, "--model", "mistral-small-latest"),
        LOOP: (PEERS, "-c", LOOP_PROGRAM, file),
    }
    samples: Samples = run.rounds(
        {
            (name, lines): partial(measured, command, file.stat().st_size, run.folder)
            for name, command in commands.items()
        },
        min(ROUNDS, run.plan.rounds),
    )
    file.unlink()
    what = f"check of {lines:,} lines"
    run.compare(what, samples, lines, OURS, LOOP, "MB/s")
    run.compare(what, samples, lines, OURS, LOOP, "peak MiB")
    run.medians("check_lines", samples, COLUMNS, "lines")


def join_results(run: Run) -> None:
    """Join the results of a million requests to the rows of a table, in its order, and write them."""
    rows = _rows(run)
    made: tuple[str | Path, ...] = (PEERS, "-m", "bench.peers.finished_run", run.folder, str(rows))
    name = subprocess.check_output(made, cwd=ROOT, env=_environ(run.folder), text=True).strip()
    given, results = run.folder / "table.parquet", run.folder / "results.jsonl"
    outs = {each: run.folder / f"{each}.parquet" for each in (OURS, PYARROW, POLARS)}
    commands = {
        OURS: (*COMMAND, "results", name, "-o", outs[OURS]),
        PYARROW: (PEERS, PROGRAMS / "joined_by_pyarrow.py", given, results, outs[PYARROW]),
        POLARS: (PEERS, PROGRAMS / "joined_by_polars.py", given, results, outs[POLARS]),
    }
    size = results.stat().st_size
    samples: Samples = run.rounds(
        {(each, rows): partial(measured, commands[each], size, run.folder) for each in commands},
        min(ROUNDS, run.plan.rounds),
    )
    _right(SAME_PROGRAM, *outs.values())
    what = f"join of {rows:,} results"
    for peer in (PYARROW, POLARS):
        run.compare(what, samples, rows, OURS, peer, "MB/s")
        run.compare(what, samples, rows, OURS, peer, "peak MiB")
    run.medians("join_results", samples, COLUMNS, "rows")


def table_to_table(run: Run) -> None:
    """One command from Parquet to Parquet through gateway and sandbox: undisturbed, and killed again and again."""
    rows, kills = (5_000, 4) if run.plan.quick else (ROWS, KILLS)
    sandbox = soak.SANDBOX.with_settings(SANDBOX_SPEED=100, SANDBOX_LEDGER_ENTRIES=100_000)
    table: list[list[Any]] = []
    with (
        sandbox.started("", run.folder) as upstream,
        GATEWAY.started(upstream.url, run.folder) as gateway,
    ):
        for what, times in (("undisturbed", 0), (f"killed {kills} times", kills)):
            once = Once(run.folder / what.partition(" ")[0], gateway, upstream)
            table.append([what, rows, *once.carried_out(rows, times, table[0][-1] if table else 0)])
    columns = ("what", "rows", "chunks", "jobs created", "jobs' requests", "starts", "seconds")
    run.table("table_to_table", columns, table)


@dataclass(frozen=True)
class Once:
    """A table of its own in a folder, and the place where it is carried out."""

    folder: Path
    gateway: Server
    sandbox: Server

    def carried_out(self, rows: int, kills: int, usual: float) -> list[Any]:
        """Chunks, jobs that the sandbox made and their requests, starts, seconds; `usual` is how long it takes undisturbed.

        WrongAnswer unless every row is there once, in order, with its own answer, and each chunk was one job.
        """
        self.folder.mkdir()
        table, out = self.folder / "table.parquet", self.folder / "out.parquet"
        _right(TABLE_PROGRAM, table, str(rows), self.folder.name, str(REPEATED))
        self._ask("/sandbox/reset", b"")
        environ = {**_environ(self.folder), "MISTRAL_BATCH_URL": self.gateway.url}
        form = ("--id", "review", "--prompt", "{text}", "--model", "mistral-small-latest")
        command = (*COMMAND, "run", table, *form, "--yes", "-o", out)
        begun, starts, killed = time.perf_counter(), 0, 0
        with (self.folder / "log").open("ab") as log:
            while True:
                starts += 1
                process = subprocess.Popen(
                    command, cwd=ROOT, env=environ, stdout=log, stderr=log, preexec_fn=_anywhere
                )
                alone = time.perf_counter()
                try:
                    moment = random.uniform(0.2, usual)  # noqa: S311 - a moment, no secret
                    code = process.wait(moment if killed < kills else None)
                except subprocess.TimeoutExpired:
                    process.kill()
                    code = process.wait()
                    killed += code == -signal.SIGKILL
                    continue
                if code:
                    raise WrongAnswer((self.folder / "log").read_text()[-2000:])
                if killed == kills:
                    break
                usual = time.perf_counter() - alone  # it has less to do by now
        seconds = time.perf_counter() - begun
        _right(WHOLE_PROGRAM, table, out)
        (manifest,) = self.folder.glob("runs/*/run.json")
        (attempt,) = json.loads(manifest.read_text())["attempts"]
        chunks = len(attempt["chunks"])
        creates = [
            each
            for each in self._ask("/sandbox/ledger")
            if (each["method"], each["path"], each["status"]) == ("POST", work.JOBS_PATH, 200)
        ]
        jobs = self._ask(f"{work.JOBS_PATH}?page_size=100")["data"]
        requests = sum(each["total_requests"] for each in jobs)
        if not chunks == len(creates) == len(jobs) or requests != rows:
            raise WrongAnswer(f"{chunks} chunks, {len(creates)} creates, {requests} requests")
        return [chunks, len(creates), requests, starts, round(seconds, 1)]

    def _ask(self, path: str, body: bytes | None = None) -> Any:
        """Past any proxy."""
        request = urllib.request.Request(self.sandbox.url + path, body)
        request.add_header("Authorization", "Bearer made-up")
        with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request) as answer:
            content = answer.read()
        return json.loads(content) if content else None


TABLE_PROGRAM = """
import sys
from pyarrow import compute, parquet
from bench.peers.finished_run import table
out, rows, unlike_others, repeated = sys.argv[1:]
made = table(int(rows))
texts = compute.binary_join_element_wise(made["text"], compute.binary_repeat(made["text"], int(repeated)), unlike_others, " ")
parquet.write_table(made.set_column(2, "text", texts), out)
"""


# A process is said to have had at least the memory of that which started it (Linux keeps `ru_maxrss` over exec): this one is small.
_MEASURED = """
import resource, subprocess, sys, time
begun = time.perf_counter()
code = subprocess.call(sys.argv[2:])
taken = time.perf_counter() - begun
peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
open(sys.argv[1], "w").write(f"{taken} {peak}")
sys.exit(code)
"""


def measured(command: tuple[str | Path, ...], size: int, home: Path) -> Sample:
    """How fast a command takes so many bytes, with its start, and what memory it has at most; WrongAnswer when it fails."""
    log, figures = home / "command.log", home / "command.figures"
    with log.open("wb") as output:
        done = subprocess.run(
            (sys.executable, "-I", "-c", _MEASURED, figures, *command), cwd=ROOT,
            env=_environ(home), stdout=output, stderr=output, preexec_fn=_anywhere,
        )  # fmt: skip
    if done.returncode:
        raise WrongAnswer(f"{command[:4]} ended with {done.returncode}: {log.read_text()[-1000:]}")
    taken, peak = map(float, figures.read_text().split())
    return {"MB/s": size / 1e6 / taken, "seconds": taken, "peak MiB": peak}


def _rows(run: Run) -> int:
    return work.QUICK_LINES if run.plan.quick else work.LINES


def _right(program: str, *arguments: str | Path) -> None:
    """Runs a program of the peers' Python; WrongAnswer when it fails."""
    done = subprocess.run(
        [PEERS, "-c", program, *arguments],
        cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True,
    )  # fmt: skip
    if done.returncode:
        raise WrongAnswer(done.stderr[-1000:])


def _environ(home: Path) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("MISTRAL_")}
    return {**kept, "PYTHONPATH": str(ROOT), "MISTRAL_BATCH_HOME": str(home / "runs")}


def _anywhere() -> None:
    """In the command's process: it may use all CPUs, where this one keeps to one."""
    os.sched_setaffinity(0, CPUS)
