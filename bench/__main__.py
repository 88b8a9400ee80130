"""Runs the benchmark: `python -m bench [--quick]`. Prints tables; writes bench/results/ and the tables of documents."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

from bench import growth, machine, report, rest, tools, upstream
from bench.findings import Findings
from bench.rounds import QUICK, Plan
from bench.upstream import Upstream

Part = Callable[[Plan, Findings], None]


def main() -> int:
    """Measures all parts, or those that are named; 2 when something that it needs is missing."""
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer and shorter rounds, no LiteLLM")
    parser.add_argument("--only", metavar="PART", nargs="+", help="these parts; nothing is written")
    chosen = parser.parse_args()
    if faults := machine.missing():
        print("bench needs: " + ", ".join(faults), file=sys.stderr)
        return 2
    plan = QUICK if chosen.quick else Plan()
    found = {"machine": machine.description(), "plan": asdict(plan)}
    os.sched_setaffinity(0, {machine.LOADED_BY})
    findings = Findings()
    with TemporaryDirectory(prefix="bench-") as name, upstream.started(Path(name)) as up:
        for part, run in parts(up, Path(name)).items():
            if not chosen.only or part in chosen.only:
                begun = time.monotonic()
                run(plan, findings)
                print(f"  {part}: {time.monotonic() - begun:.0f} s", file=sys.stderr, flush=True)
    results = {**found, **findings.members()}
    print(report.text(results))
    if not chosen.only:
        write(results)
    return 0


def parts(up: Upstream, folder: Path) -> Mapping[str, Part]:
    """Everything there is to measure, by name, in its order."""
    at_once = [
        rest.get_job, rest.saturated, rest.list_jobs, rest.create, rest.over_tls, tools.calls,
        tools.over_rest, growth.clients, growth.workers, growth.records, growth.start_up,
        growth.collector,
    ]  # fmt: skip
    waiting = [rest.waiting, growth.delays, growth.in_flight]
    return {each.__name__: partial(each, up, folder) for each in at_once} | {
        each.__name__: partial(each, folder) for each in waiting
    }


def write(results: report.Results) -> None:
    """Writes results, plots and the document's tables."""
    report.RESULTS.mkdir(exist_ok=True)
    report.LATEST.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    subprocess.run(
        [machine.PEERS, "-m", "bench.plots", report.LATEST], cwd=machine.ROOT, check=True
    )
    for document in report.DOCUMENTS:
        report.write_document(results, document)


if __name__ == "__main__":
    sys.exit(main())
