"""Runs the benchmark: `python -m bench [--quick]`. Prints tables; writes bench/results/ and the tables of documents.

A part in which a round failed has no figures: the others are printed, nothing is written, and the exit status is 1.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from tempfile import TemporaryDirectory

from bench import machine, report, upstream
from bench.comparison import GROWTH, PARTS, Part
from bench.run import FAILURES, QUICK, Plan, RoundFailed, Run


def main() -> int:
    """Measures all parts, or those that are named; 2 when something that it needs is missing."""
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    text = "fewer and shorter rounds; neither LiteLLM nor how cost grows"
    parser.add_argument("--quick", action="store_true", help=text)
    named = {part.__name__: part for part in (*PARTS, *GROWTH)}
    text = "these parts; nothing is written"
    parser.add_argument("--only", metavar="PART", nargs="+", choices=named, help=text)
    chosen = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the servers end too
    if missing := machine.missing():
        print("bench needs: " + ", ".join(missing), file=sys.stderr)
        return 2
    plan = QUICK if chosen.quick else Plan()
    kind = f"A {'quick' if plan.quick else 'full'} run, {plan.rounds} rounds, "
    where = kind + machine.description()
    os.sched_setaffinity(0, {machine.LOADED_BY})
    with TemporaryDirectory(prefix="bench-") as name, upstream.started(Path(name)) as running:
        run = Run(running, Path(name), plan)
        if chosen.only:
            parts = [named[name] for name in chosen.only]
        else:
            parts = [*PARTS, *(() if plan.quick else GROWTH)]
        failures = measure(run, parts)
    where = "\n".join([where, *(f"- Not in this run: {each}." for each in run.skipped)])
    results: report.Results = {"machine": where, "tables": run.tables}
    for name, block in report.blocks(results).items():
        print(f"{name}\n\n{block}\n")
    if failures:
        print("\n".join(["Failed, so that nothing is written:", *failures]), file=sys.stderr)
    elif not chosen.only:
        report.LATEST.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
        subprocess.run([machine.PEERS, "-m", "bench.plot", report.LATEST], check=True)
        page = report.DOCUMENT.read_text(encoding="utf-8")
        report.DOCUMENT.write_text(report.filled(page, results), encoding="utf-8")
    return bool(failures)


def measure(run: Run, parts: Iterable[Part]) -> list[str]:
    """Runs the parts; what failed in which."""
    failures = []
    for part in parts:
        begun = time.monotonic()
        try:
            part(run)
        except (RoundFailed, *FAILURES) as error:
            failures.append(f"{part.__name__}: {error}")
        print(f"  {part.__name__}: {time.monotonic() - begun:.0f} s", file=sys.stderr, flush=True)
    return failures


if __name__ == "__main__":
    sys.exit(main())
