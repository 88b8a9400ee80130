"""What is compared: the gateway and the bridge with their peers, and with themselves under more of everything.

Each function of PARTS starts targets, measures them in rounds, and adds bars and tables to the run.
"""

from __future__ import annotations

import json
import sqlite3
import statistics
import uuid
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from bench import targets, upstream, work
from bench.files import downloads, jobs_beside_files, uploads
from bench.load import Caller, Sample, WrongAnswer, load, small_requests
from bench.machine import LITELLM, LOADED_BY
from bench.processes import Server, Target
from bench.run import Run, Samples, check_answers, median
from bench.tables import check_lines, join_results, table_to_table
from bench.targets import FLASK, GATEWAY
from bench.waiters import jobs_beside_waiters
from bench.work import LEGACY, MODERN, Request

OURS, FLASKS = GATEWAY.name, FLASK.name


def get_job(run: Run) -> None:
    """Get a job, upstream at once: 1 and 32 clients, all peers."""
    aiohttps, nginx, litellm = targets.FASTAPI_AIOHTTP, targets.NGINX.name, targets.LITELLM
    chosen = [GATEWAY, FLASK, targets.FASTAPI_HTTPX, aiohttps, targets.AIOHTTP, targets.NGINX]
    if run.plan.quick:
        run.skipped.append("LiteLLM: its start alone takes half a minute; a full run has it")
    elif not LITELLM.exists():
        run.skipped.append("LiteLLM: not installed in .tools/litellm")
    else:
        chosen.append(litellm)
    with run.started(*chosen) as servers:
        samples = run.load(servers, 1, 32)
        resident = {name: round(server.resident(), 1) for name, server in servers.items()}
    for clients, least in ((1, 1.6), (32, 2.7)):
        compare = partial(run.compare, f"get a job, {_clients(clients)}", samples, clients, OURS)
        compare(FLASKS, "CPU us", at_most=1.0)
        compare(FLASKS, "answers/s")
        compare(targets.FASTAPI_HTTPX.name, "answers/s", at_least=least)
        compare(aiohttps.name, "answers/s")
        compare(aiohttps.name, "CPU us")
        if litellm in chosen:
            compare(litellm.name, "answers/s", at_least=8)
        compare(nginx, "CPU us")
        compare(targets.AIOHTTP.name, "CPU us")
    pairs = zip(samples[OURS, 1], samples[nginx, 1], strict=True)
    added = statistics.median(our["p50 ms"] - their["p50 ms"] for our, their in pairs)
    run.figure("get a job, 1 client", "added to nginx's p50", added, "ms")
    if litellm in chosen:
        share = resident[OURS] / resident[litellm.name]
        run.figure("get a job", "memory, of LiteLLM's", share, "x", at_most=0.2)
    run.medians("get_job", samples)
    run.table("memory", ("what", "MiB"), resident.items())


def _clients(count: int) -> str:
    return "1 client" if count == 1 else f"{count} clients"


def saturated(run: Run) -> None:
    """Get a job, 256 clients: more than one core can serve."""
    with run.started(GATEWAY, FLASK) as servers:
        samples = run.load(servers, 256, more=2)
    what = "get a job, 256 clients (saturated)"
    run.compare(what, samples, 256, OURS, FLASKS, "p99 ms", at_most=0.4)
    run.figure(what, "p99", median(samples[OURS, 256], "p99 ms"), "ms", at_most=600)
    run.compare(what, samples, 256, OURS, FLASKS, "answers/s")
    run.medians("saturated", samples)


def list_jobs(run: Run) -> None:
    """List 100 jobs, 92 KB."""
    with run.started(GATEWAY, FLASK, targets.FASTAPI_HTTPX) as servers:
        samples = run.load(servers, 16, request=work.LIST_JOBS)
    what = "list of 100 jobs (92 KB)"
    run.compare(what, samples, 16, OURS, FLASKS, "CPU us", at_most=1.0)
    run.compare(what, samples, 16, OURS, FLASKS, "answers/s")
    run.medians("list_jobs", samples)


def create(run: Run) -> None:
    """Create jobs with 10 to 10,000 inline requests: time, CPU, memory, and what others wait meanwhile.

    With keys too, in a gateway of its own. The peers know none: theirs are the same creates as without.
    """
    peers = (
        FLASK, targets.STARLETTE_HTTPX, targets.FASTAPI_HTTPX,
        targets.FASTAPI_HTTPX_TEXT, targets.FASTAPI_HTTPX_RAW,
    )  # fmt: skip
    httpx = targets.FASTAPI_HTTPX.name
    limits = {httpx: 0.15, targets.STARLETTE_HTTPX.name: 1.1}
    keyed = GATEWAY.with_settings(f"{OURS}, with a key")
    check_creates(run, GATEWAY, *peers)
    bodies = {size: work.create_body(size) for size in work.SIZES}
    with run.started(GATEWAY, keyed, *peers) as servers:
        at_rest = {name: server.resident() for name, server in servers.items()}
        runs = {
            (name, size): partial(_creates, server, work.create_job(body, keyed=name == keyed.name))
            for size, body in bodies.items()
            for name, server in servers.items()
        }
        creates: Samples = run.rounds(runs)
    size = max(bodies)
    what = f"create with {size:,} inline requests ({len(bodies[size]) / 1e6:.0f} MB)"
    for name in (each.name for each in peers):
        run.compare(what, creates, size, OURS, name, "p50 ms", at_most=limits.get(name))
    for name in (each.name for each in (GATEWAY, *peers)):
        peer = "itself without" if name == OURS else name
        run.compare(f"{what}, with a key", creates, size, keyed.name, name, "p50 ms", peer=peer)
    rows = {
        name: [
            median(creates[name, size], "peak MiB") - before,
            median(creates[name, size], "stall ms"),
        ]
        for name, before in at_rest.items()
    }
    (added, stall), (theirs, _) = rows[OURS], rows[httpx]
    run.figure(what, "added memory, of FastAPI + httpx's", added / theirs, "x", at_most=0.3)
    run.figure("a small request meanwhile", "stalled", stall, "ms", at_most=35)
    run.medians("create", creates, ("p50 ms", "CPU ms"), "requests")
    run.table(
        "create_largest", ("what", "MiB", "stall ms"), ([name, *row] for name, row in rows.items())
    )


def check_creates(run: Run, *chosen: Target) -> None:
    """WrongAnswer unless each sends a create upstream as it came, and passes on its answer."""
    with upstream.slow(run.folder, 0) as recorder:
        for target in chosen:
            with target.started(recorder.url, run.folder) as server, Caller(server) as caller:
                for size in (1, 1_000):
                    body = work.create_body(size)
                    caller.expect(work.create_job(body))
                    if upstream.last_body(recorder) != json.loads(body):
                        raise WrongAnswer(f"{target.name} changed a create of {size} requests")


def _creates(server: Server, request: Request) -> Sample:
    """Some creates one after another; the stall is the slowest small request's beside one more."""
    times = 20 if len(request.body) < 1_000_000 else 3
    with Caller(server) as caller:
        server.forget_peak()
        before = server.cpu_seconds()
        taken = statistics.median(caller.expect(request) for _ in range(times))
        cpu = (server.cpu_seconds() - before) * 1000 / times
        peak = server.peak()
        with small_requests(server) as beside:
            caller.expect(request)
    return {"p50 ms": taken, "CPU ms": cpu, "peak MiB": peak, "stall ms": max(beside)}


def over_tls(run: Run) -> None:
    """An upstream over TLS, as the real one is: connections made, CPU of a reused and of a fresh one."""
    plain = GATEWAY.with_settings("over HTTP", GATEWAY_THREADS=64)
    secure = plain.with_settings("over TLS", GATEWAY_CA_FILE=run.upstream.authority)

    def get(server: Server) -> Sample:
        before = run.upstream.connections()
        sample = load(server, 64, run.plan.seconds, work.GET_JOB)
        return {
            **sample,
            "opened": (run.upstream.connections() - before) * 1000 / sample["answers"],
        }

    request = work.create_job(work.create_body(1))
    with (
        plain.started(run.upstream.url, run.folder) as one,
        secure.started(run.upstream.secure_url, run.folder) as other,
    ):
        servers = {plain.name: one, secure.name: other}
        for server in servers.values():
            check_answers(server, listing=True)
        gets = run.rounds({(name, 64): partial(get, server) for name, server in servers.items()})
        creates = run.load(servers, 8, request=request)
    # The first round opens what the others use; the counting request itself is a connection too.
    first, *later = [each["opened"] for each in gets[secure.name, 64]]
    what, of = "upstream over TLS, 64 threads", "new connections per 1,000 requests"
    run.figure(what, f"{of}, first round", first, "", at_most=64)
    run.figure(what, f"{of}, later rounds", statistics.median(later), "")
    compare = partial(run.compare, peer="itself over HTTP")
    compare("get a job over TLS, 64 clients", gets, 64, secure.name, plain.name, "CPU us")
    what, cpu = "create on a fresh TLS connection", median(creates[secure.name, 8], "CPU us") / 1000
    run.figure(what, "CPU of the gateway", cpu, "ms", at_most=3)
    compare(what, creates, 8, secure.name, plain.name, "CPU us")
    named = {(f"get a job {name}", clients): each for (name, clients), each in gets.items()}
    run.medians("tls", named | {(f"create {name}", 8): each for (name, _), each in creates.items()})


def tool_calls(run: Run) -> None:
    """Getting a job by a tool: 1 and 16 clients, both protocol versions; REST answers at once."""
    with run.started(*targets.BRIDGES.values(), *targets.FASTMCPS.values()) as servers:
        samples = run.load(servers, 1, 16)
    for version, least in ((MODERN, 5.0), (LEGACY, 2.5)):
        _compare_tools(run, samples, version, "", "answers/s", at_least=least)
        _compare_tools(run, samples, version, "", "CPU us")
    run.medians("mcp", samples)


def _compare_tools(
    run: Run, samples: Samples, version: str, where: str, column: str, at_least: float | None = None
) -> None:
    ours, theirs = targets.BRIDGES[version].name, targets.FASTMCPS[version].name
    for clients in (1, 16):
        what, peer = f"tool call, {version}, {_clients(clients)}{where}", targets.FASTMCP.name
        run.compare(what, samples, clients, ours, theirs, column, peer=peer, at_least=at_least)


def tool_calls_over_rest(run: Run) -> None:
    """The same behind the real REST service: what a tool call adds to the plain call, and a large create."""
    rest, bridge = replace(GATEWAY, name="REST", cpu=LOADED_BY), targets.BRIDGES[MODERN].name
    chosen = (*targets.BRIDGES.values(), *targets.FASTMCPS.values())

    def by_rest(body: dict[str, Any]) -> Request:
        return work.create_job(json.dumps(body).encode(), keyed=True)

    by_tool = partial(work.tool_call, MODERN, "create-batch-job")
    with (
        run.started(rest) as gateway,
        run.started(*chosen, url=gateway[rest.name].url) as servers,
    ):
        samples = run.load(servers, 1, 16, rounds=max(1, run.plan.rounds - 2))
        direct = run.load(gateway, 1)
        creates = run.rounds(
            {
                ("tool", 1_000): partial(_created, servers[bridge], by_tool),
                ("REST", 1_000): partial(_created, gateway[rest.name], by_rest),
            }
        )
    _compare_tools(run, samples, MODERN, ", the gateway as REST service", "answers/s")
    added = median(samples[bridge, 1], "p50 ms") - median(direct[rest.name, 1], "p50 ms")
    run.figure("tool call, 1 client", "added to the REST call's p50", added, "ms")
    what = "create with 1,000 inline requests by a tool"
    run.compare(what, creates, 1_000, "tool", "REST", "p50 ms", peer="itself by REST", at_most=2.0)
    run.medians("mcp_gateway", samples | direct)
    run.medians("mcp_create", creates, ("p50 ms",), "requests")


def _created(server: Server, create: Callable[[dict[str, Any]], Request]) -> Sample:
    """Five creates with 1,000 inline requests that repeat no earlier one."""
    body = json.loads(work.create_body(1_000))
    requests = [create({**body, "metadata": {"n": uuid.uuid4().hex}}) for _ in range(5)]
    with Caller(server) as caller:
        return {"p50 ms": statistics.median(caller.expect(each) for each in requests)}


def clients(run: Run) -> None:
    """1 to 1,000 clients at once, for two seconds: most of one may pass before 1,000 have a first answer."""
    counts, more = (1, 4, 16, 64, 250, 500, 1_000), 2 - run.plan.seconds
    with run.started(GATEWAY.with_settings(GATEWAY_QUEUE=1_000), FLASK) as servers:
        samples = run.load(servers, *counts, more=more, rounds=max(2, run.plan.rounds - 2))
    run.medians("growth_clients", samples)


def workers(run: Run) -> None:
    """One worker and two, which share the machine with load and upstream."""
    one, two = replace(GATEWAY, name=f"{OURS}, 1 worker", cpu=None), targets.GATEWAY_2
    with run.started(one, two) as servers:
        samples = run.load(servers, 32, pinned=False)
    what, peer = "get a job, 32 clients, 2 workers", "itself with 1 worker"
    run.compare(what, samples, 32, two.name, one.name, "answers/s", peer=peer)
    run.medians("growth_workers", samples)


def records(run: Run) -> None:
    """Creates with keys, when the store remembers none to many earlier ones."""
    chosen = []
    for count in (0, 10_000, 50_000):
        store = run.folder / f"records-{count}.sqlite3"
        remember(run, store, count)
        chosen.append(GATEWAY.with_settings(f"{count:,} records", GATEWAY_STORE=store))
    request = work.create_job(work.create_body(1), keyed=True)
    with run.started(*chosen) as servers:
        samples = run.load(servers, 8, request=request)
    none, most = chosen[0].name, chosen[-1].name
    what, peer = f"create with a key, {most}", "itself with none"
    run.compare(what, samples, 8, most, none, "CPU us", peer=peer, at_most=1.1)
    run.medians("growth_records", samples)


def remember(run: Run, store: Path, count: int) -> None:
    """Makes a store with so many more answered creates: the gateway's own answer to one, copied under other ids."""
    target = GATEWAY.with_settings(GATEWAY_STORE=store)
    with target.started(run.upstream.url, run.folder) as server, Caller(server) as caller:
        caller.expect(work.create_job(work.create_body(1), keyed=True))
    with closing(sqlite3.connect(store)) as db, db:
        _, *others = db.execute("SELECT * FROM record").fetchone()
        marks = ", ".join("?" * (1 + len(others)))
        copies = ((uuid.uuid4().hex, *others) for _ in range(count))
        db.executemany(f"INSERT INTO record VALUES ({marks})", copies)  # noqa: S608 - question marks


def start_up(run: Run) -> None:
    """From the start of the process to its first answer; memory at rest."""

    def start(target: Target) -> Sample:
        with target.started(run.upstream.url, run.folder) as server:
            return {"s": server.ready_after, "MiB": server.resident()}

    starts = run.rounds({each.name: partial(start, each) for each in (GATEWAY, FLASK)})
    run.figure("start", "until the first job is got", median(starts[OURS], "s"), "s", at_most=1.5)
    run.figure("start", "the same, Flask + requests", median(starts[FLASKS], "s"), "s")
    run.figure("at rest", "memory of a worker", median(starts[OURS], "MiB"), "MiB", at_most=65)


def collector(run: Run) -> None:
    """The tail with the garbage collector as it is set up, and without any."""
    without = targets.GATEWAY_UNCOLLECTED
    with run.started(GATEWAY, without) as servers:
        samples = run.load(servers, 4)
    what, peer = "get a job, 4 clients", "itself without a collector"
    run.compare(what, samples, 4, OURS, without.name, "p99 ms", peer=peer, at_most=1.15)
    run.medians("collector", samples, ("answers/s", "p50 ms", "p99 ms", "p99.9 ms", "longest ms"))


def waiting(run: Run) -> None:
    """Get a job from an upstream that takes 300 ms: 256 clients and one worker, 500 clients and two."""
    ours, theirs = targets.GATEWAY_2, targets.FLASK_2
    with upstream.slow(run.folder, 300) as slow:
        with run.started(GATEWAY, FLASK, url=slow.url) as servers:
            samples = run.load(servers, 256, more=3)
        with run.started(ours, theirs, url=slow.url) as servers:
            samples |= run.load(servers, 500, more=3, pinned=False)
    what = "upstream 300 ms, 256 clients, 1 worker"
    run.compare(what, samples, 256, OURS, FLASKS, "answers/s", at_least=0.97)
    run.figure(what, "p50", median(samples[OURS, 256], "p50 ms"), "ms", at_most=330)
    compare = partial(
        run.compare, "upstream 300 ms, 500 clients, 2 workers", samples, 500, ours.name, theirs.name
    )
    compare("answers/s", peer=FLASKS, at_least=1.0)
    compare("p99 ms", peer=FLASKS, at_most=0.8)
    run.medians("waiting", samples)


def delays(run: Run) -> None:
    """An upstream that takes 0, 50 and 300 ms; 64 clients."""
    samples: Samples = {}
    for delay in (0, 50, 300):
        with (
            upstream.slow(run.folder, delay) as slow,
            run.started(GATEWAY, FLASK, url=slow.url) as servers,
        ):
            loads = run.load(servers, 64, more=-1, rounds=max(2, run.plan.rounds - 2))
        samples |= {(name, delay): each for (name, _), each in loads.items()}
    run.medians("growth_delay", samples, varied="upstream ms")


def in_flight(run: Run) -> None:
    """Memory of one worker while 500 requests wait for the upstream."""
    wide = GATEWAY.with_settings(GATEWAY_THREADS=512)
    with upstream.slow(run.folder, 300) as slow, run.started(wide, url=slow.url) as servers:
        servers[wide.name].forget_peak()
        run.load(servers, 500, more=2, rounds=1)
        peak = servers[wide.name].peak()
    run.figure("500 in flight", "memory of the worker", peak, "MiB", at_most=100)


Part = Callable[[Run], None]
PARTS: tuple[Part, ...] = (
    get_job, saturated, list_jobs, create, over_tls, tool_calls, tool_calls_over_rest,
    uploads, downloads, jobs_beside_files, jobs_beside_waiters, start_up, waiting, in_flight,
    check_lines, join_results, table_to_table,
)  # fmt: skip
GROWTH: tuple[Part, ...] = (clients, workers, records, collector, delays)
"""How cost grows, and what the collector costs: not in a quick run."""
