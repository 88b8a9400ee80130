"""How the gateway's cost grows, and what it costs at rest."""

from __future__ import annotations

import hashlib
import statistics
from functools import partial
from pathlib import Path
from threading import Thread
from time import sleep

from bench import load, subjects, upstream, work
from bench.findings import Findings
from bench.load import Call, Sample
from bench.processes import Server
from bench.rest import AT_MOST, FLASK, GATEWAY, all_started
from bench.rounds import Plan, interleaved, median
from bench.upstream import Upstream

CLIENTS = (1, 4, 16, 64, 250, 500, 1_000)
DELAYS = (0, 50, 300)
RECORDS = (0, 10_000, 50_000)


def clients(up: Upstream, folder: Path, plan: Plan, findings: Findings) -> None:
    """1 to 1,000 clients at once."""
    ours = subjects.GATEWAY.with_settings(GATEWAY_QUEUE=1_000)
    with all_started([ours, subjects.FLASK], up.url, folder) as servers:
        runs = {
            (name, each): partial(load.run, server, work.JOB_PATH, each, max(1, plan.seconds - 1))
            for each in (CLIENTS[::2] if plan.quick else CLIENTS)
            for name, server in servers.items()
        }
        samples = interleaved(max(2, plan.rounds - 2), runs)
    findings.table(
        "growth_clients",
        "By number of clients, upstream at once",
        ("what", "clients", "answers/s", "p50 ms", "p99 ms", "CPU us", "errors"),
        [[*key, *_figures(each)] for key, each in samples.items()],
    )


def _figures(samples: list[Sample]) -> list[float]:
    found = median(samples)
    return [found[name] for name in ("rate", "p50", "p99", "cpu", "errors")]


def delays(folder: Path, plan: Plan, findings: Findings) -> None:
    """An upstream that takes 0, 50 and 300 ms; 64 clients."""
    rows = []
    for delay in DELAYS[1:] if plan.quick else DELAYS:
        with (
            upstream.slow(folder, delay) as slow,
            all_started(
                [subjects.GATEWAY, subjects.FLASK], slow.url, folder, check=False
            ) as servers,
        ):
            runs = {
                (name, delay): partial(
                    load.run, server, work.JOB_PATH, 64, max(1, plan.seconds - 1)
                )
                for name, server in servers.items()
            }
            samples = interleaved(max(2, plan.rounds - 2), runs)
            rows += [[*key, *_figures(each)] for key, each in samples.items()]
    findings.table(
        "growth_delay",
        "By the upstream's latency, 64 clients",
        ("what", "upstream ms", "answers/s", "p50 ms", "p99 ms", "CPU us", "errors"),
        rows,
    )


def workers(up: Upstream, folder: Path, plan: Plan, findings: Findings) -> None:
    """One worker and two, which share the machine with load and upstream."""
    chosen = [
        subjects.GATEWAY.with_settings("1 worker", pinned=False),
        subjects.GATEWAY.with_settings("2 workers", pinned=False, WEB_CONCURRENCY=2),
    ]
    with all_started(chosen, up.url, folder) as servers:
        runs = {
            (name, 32): partial(load.run, server, work.JOB_PATH, 32, plan.seconds, pinned=False)
            for name, server in servers.items()
        }
        samples = interleaved(plan.rounds, runs)
    one, two = samples.values()
    findings.compare("get a job, 32 clients, 2 workers", "itself with 1 worker", "rate", two, one)
    findings.table(
        "growth_workers",
        "By number of workers, 32 clients, nothing pinned",
        ("what", "answers/s", "p50 ms", "p99 ms", "CPU us", "errors"),
        [[key[0], *_figures(each)] for key, each in samples.items()],
    )


def records(up: Upstream, folder: Path, plan: Plan, findings: Findings) -> None:
    """Creates with keys, when the store remembers none to many earlier ones."""
    counts = RECORDS[:2] if plan.quick else RECORDS
    chosen = []
    for count in counts:
        store = folder / f"records-{count}.sqlite3"
        _remember(store, count)
        name = f"{count:,} records"
        chosen.append(subjects.GATEWAY.with_settings(name, GATEWAY_STORE=store))
    headers = {"Content-Type": "application/json"}
    post = Call(folder, "keyed", "POST", headers, work.create_body(1), keyed=True)
    with all_started(chosen, up.url, folder) as servers:
        runs = {
            name: partial(load.run, server, work.JOBS_PATH, 8, plan.seconds, post)
            for name, server in servers.items()
        }
        samples = interleaved(plan.rounds, runs)
    most, none = samples[chosen[-1].name], samples[chosen[0].name]
    findings.compare(
        f"create with a key, {chosen[-1].name}", "itself with none", "cpu", most, none, AT_MOST, 1.1
    )
    findings.table(
        "growth_records",
        "By number of remembered keys, 8 clients that create with keys",
        ("what", "answers/s", "p50 ms", "p99 ms", "CPU us", "errors"),
        [[key, *_figures(each)] for key, each in samples.items()],
    )


def _remember(store: Path, count: int) -> None:
    """A store with so many answered calls, as the gateway writes them."""
    from service.store import Record, open_store

    opened = open_store(str(store))
    now = opened.now()
    for number in range(count):
        text = hashlib.sha256(str(number).encode()).hexdigest()
        opened.insert(
            Record(
                id=text, owner=text[:32], fingerprint=text, tag=text[:40], state="done",
                claimed_at=now, lease_until=0.0, expires=now + 86400, status=200,
                content_type="application/json", body=work.JOB,
            )
        )  # fmt: skip


def start_up(up: Upstream, folder: Path, plan: Plan, findings: Findings) -> None:
    """From the start of the process to its first answer; memory at rest."""
    taken: dict[str, list[float]] = {GATEWAY: [], FLASK: []}
    resident: list[float] = []
    for _ in range(plan.rounds):
        for subject in (subjects.GATEWAY, subjects.FLASK):
            with subject.started(up.url, folder) as server:
                taken[subject.name].append(server.ready_after)
                if subject is subjects.GATEWAY:
                    resident.append(server.resident() / 2**20)
    median_seconds = statistics.median(taken[GATEWAY])
    findings.hold("start", "until the first job is got", median_seconds, "s", AT_MOST, 1.5)
    findings.hold("start", "the same, Flask + requests", statistics.median(taken[FLASK]), "s")
    findings.hold("at rest", "memory of a worker", statistics.median(resident), "MiB", AT_MOST, 65)


def in_flight(folder: Path, plan: Plan, findings: Findings) -> None:
    """Memory of one worker while 500 requests wait for the upstream."""
    wide = subjects.GATEWAY.with_settings(GATEWAY_THREADS=512)
    with upstream.slow(folder, 300) as slow, wide.started(slow.url, folder) as server:
        seen: list[float] = []
        watch = Thread(target=_watch, args=(server, plan.seconds + 1, seen))
        watch.start()
        load.run(server, work.JOB_PATH, 500, plan.seconds + 2)
        watch.join()
    findings.hold("500 in flight", "memory of the worker", max(seen), "MiB", AT_MOST, 100)


def _watch(server: Server, seconds: int, seen: list[float]) -> None:
    for _ in range(seconds * 5):
        seen.append(server.resident() / 2**20)
        sleep(0.2)


def collector(up: Upstream, folder: Path, plan: Plan, findings: Findings) -> None:
    """The tail with the garbage collector as it is set up, and without any."""
    without = subjects.GATEWAY_UNCOLLECTED
    with all_started([subjects.GATEWAY, without], up.url, folder) as servers:
        runs = {
            name: partial(load.run, server, work.JOB_PATH, 4, plan.seconds)
            for name, server in servers.items()
        }
        samples = interleaved(plan.rounds, runs)
    name, ours, theirs = "get a job, 4 clients", samples[GATEWAY], samples[without.name]
    findings.compare(name, "itself without a collector", "p99", ours, theirs, AT_MOST, 1.15)
    findings.table(
        "collector",
        "The garbage collector, 4 clients",
        ("what", "answers/s", "p50 ms", "p99 ms", "p99.9 ms", "longest ms"),
        [
            [key, *(median(each)[m] for m in ("rate", "p50", "p99", "p999", "longest"))]
            for key, each in samples.items()
        ],
    )
