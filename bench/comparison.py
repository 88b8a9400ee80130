"""What is compared: the gateway and the bridge with their peers, and with themselves under more of everything.

Each function of PARTS starts targets, measures them in rounds, and adds bars and tables to the run.
"""

from __future__ import annotations

import json
import sqlite3
import statistics
import threading
import uuid
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from bench import targets, upstream, work
from bench.load import Caller, Sample, WrongAnswer, load, small_requests
from bench.machine import LOADED_BY
from bench.processes import Server, Target
from bench.run import AT_LEAST, AT_MOST, WITH_ERRORS, Run, Samples, check_answers, median
from bench.targets import FLASK, GATEWAY
from bench.work import LEGACY, MODERN, Request


def get_job(run: Run) -> None:
    """Get a job, upstream at once: 1 and 32 clients, all peers."""
    nginx, litellm = targets.NGINX, targets.LITELLM
    pools = _best_pools(run)
    chosen = [GATEWAY, FLASK, *pools.values(), targets.FASTAPI_AIOHTTP, targets.AIOHTTP, nginx]
    if run.plan.quick:
        run.skipped.append("LiteLLM: its start alone takes half a minute; a full run has it")
    elif not Path(litellm.command[0]).exists():
        run.skipped.append("LiteLLM: not installed in .tools/litellm")
    else:
        chosen.append(litellm)
    chosen = [*{each.name: each for each in chosen}.values()]  # one pool may be best for both
    with run.started(*chosen) as servers:
        samples = run.load(servers, 1, 32)
        resident = {name: server.resident() / 2**20 for name, server in servers.items()}
    for clients, least in ((1, 1.6), (32, 2.7)):
        compare = partial(_compare, run, f"get a job, {_clients(clients)}", samples, clients)
        compare(FLASK, "cpu", AT_MOST, 1.0)
        compare(FLASK, "rate")
        compare(pools[clients], "rate", AT_LEAST, least)
        compare(targets.FASTAPI_AIOHTTP, "rate")
        compare(targets.FASTAPI_AIOHTTP, "cpu")
        if litellm in chosen:
            compare(litellm, "rate", AT_LEAST, 8)
        compare(nginx, "cpu")
        compare(targets.AIOHTTP, "cpu")
    pairs = zip(samples[GATEWAY.name, 1], samples[nginx.name, 1], strict=True)
    added = statistics.median(our.p50 - their.p50 for our, their in pairs)
    run.figure("get a job, 1 client", "added to nginx's p50", added, "ms")
    if litellm in chosen:
        share = resident[GATEWAY.name] / resident[litellm.name]
        run.figure("get a job", "memory, of LiteLLM's", share, "x", AT_MOST, 0.2)
    run.medians("get_job", _by_clients(samples))
    run.table(
        "memory", ("what", "MiB"), [[name, round(each, 1)] for name, each in resident.items()]
    )


def _best_pools(run: Run) -> dict[int, Target]:
    """FastAPI + httpx with the pool setting that is fastest here, for 1 and for 32 clients."""
    pools = targets.HTTPX_POOLS[:2] if run.plan.quick else targets.HTTPX_POOLS
    variants = [
        targets.FASTAPI_HTTPX.with_settings(f"FastAPI + httpx, pool {pool}", POOL=pool)
        for pool in pools
    ]
    with run.started(*variants) as servers:
        samples = run.load(servers, 1, 32, more=-1, rounds=2)
    return {
        clients: max(variants, key=lambda each: median(samples[each.name, clients], "rate"))
        for clients in (1, 32)
    }


def _compare(
    run: Run, what: str, samples: Samples, clients: int, peer: Target, measure: str, *bar: Any
) -> None:
    """As `Run.compare`, of the gateway with a peer."""
    ours, theirs = samples[GATEWAY.name, clients], samples[peer.name, clients]
    run.compare(what, peer.name, measure, ours, theirs, *bar)


def _clients(count: int) -> str:
    return "1 client" if count == 1 else f"{count} clients"


def _by_clients(samples: Samples) -> dict[tuple[str], list[Sample]]:
    """Samples with one name for a target and its number of clients."""
    named = {(f"{name}, {clients} clients",): each for (name, clients), each in samples.items()}
    return dict(sorted(named.items()))


def saturated(run: Run) -> None:
    """Get a job, 256 clients: more than one core can serve."""
    with run.started(GATEWAY, FLASK) as servers:
        samples = run.load(servers, 256, more=2)
    what, ours = "get a job, 256 clients (saturated)", samples[GATEWAY.name, 256]
    _compare(run, what, samples, 256, FLASK, "p99", AT_MOST, 0.4)
    run.figure(what, "p99", median(ours, "p99"), "ms", AT_MOST, 600)
    _compare(run, what, samples, 256, FLASK, "rate")
    run.figure(what, "errors", median(ours, "errors"), "", AT_MOST, 0)
    run.medians("saturated", samples)


def list_jobs(run: Run) -> None:
    """List 100 jobs, 92 KB."""
    with run.started(GATEWAY, FLASK, targets.FASTAPI_HTTPX) as servers:
        samples = run.load(servers, 16, request=work.LIST_JOBS)
    _compare(run, "list of 100 jobs (92 KB)", samples, 16, FLASK, "cpu", AT_MOST, 1.0)
    _compare(run, "list of 100 jobs (92 KB)", samples, 16, FLASK, "rate")
    run.medians("list_jobs", samples)


@dataclass(frozen=True)
class Creates:
    """Some creates one after another: the median's milliseconds, CPU milliseconds of each, peak bytes.

    `stall` is the milliseconds of the slowest small request beside one more.
    """

    p50: float
    cpu: float
    peak: float
    stall: float


def create(run: Run) -> None:
    """Create jobs with 10 to 10,000 inline requests: time, CPU, memory, and what others wait meanwhile.

    With keys too, in a gateway of their own. The peers know none: theirs are the same creates as without.
    """
    peers = (
        FLASK, targets.STARLETTE_HTTPX, targets.FASTAPI_HTTPX,
        targets.FASTAPI_HTTPX_TEXT, targets.FASTAPI_HTTPX_RAW,
    )  # fmt: skip
    httpx = targets.FASTAPI_HTTPX.name
    limits = {httpx: 0.15, targets.STARLETTE_HTTPX.name: 1.1}
    keyed = GATEWAY.with_settings(f"{GATEWAY.name}, with a key")
    check_creates(run, GATEWAY, *peers)
    bodies = {size: work.create_body(size) for size in work.SIZES}
    with run.started(GATEWAY, keyed, *peers) as servers:
        at_rest = {name: server.resident() for name, server in servers.items()}
        runs = {
            (name, size): partial(_creates, server, work.create_job(body, keyed=name == keyed.name))
            for size, body in bodies.items()
            for name, server in servers.items()
        }
        creates = run.rounds(runs)
    size = max(bodies)
    largest = {name: creates[name, size] for name in servers}
    what = f"create with {size:,} inline requests ({len(bodies[size]) / 1e6:.0f} MB)"
    for peer in (each.name for each in peers):
        bar = (AT_MOST, limits[peer]) if peer in limits else ()
        run.compare(what, peer, "p50", largest[GATEWAY.name], largest[peer], *bar)
    for peer in (each.name for each in (GATEWAY, *peers)):
        label = "itself without" if peer == GATEWAY.name else peer
        run.compare(f"{what}, with a key", label, "p50", largest[keyed.name], largest[peer])
    added = {name: median(each, "peak") - at_rest[name] for name, each in largest.items()}
    stalls = {name: median(each, "stall") for name, each in largest.items()}
    share = added[GATEWAY.name] / added[httpx]
    run.figure(what, "added memory, of FastAPI + httpx's", share, "x", AT_MOST, 0.3)
    run.figure("a small request meanwhile", "stalled", stalls[GATEWAY.name], "ms", AT_MOST, 35)
    rows = [[*key, median(each, "p50"), median(each, "cpu")] for key, each in creates.items()]
    run.table("create", ("what", "requests", "ms", "CPU ms"), rows)
    rows = [[name, round(added[name] / 2**20, 1), round(stalls[name], 1)] for name in servers]
    run.table("create_largest", ("what", "MiB", "stall ms"), rows)


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


def _creates(server: Server, request: Request) -> Creates:
    times = 20 if len(request.body) < 1_000_000 else 3
    with Caller(server) as caller:
        server.forget_peak()
        before = server.cpu_seconds()
        taken = [caller.expect(request).milliseconds for _ in range(times)]
        cpu = (server.cpu_seconds() - before) * 1000 / times
        peak = server.peak()
        with small_requests(server) as beside:
            caller.expect(request)
    return Creates(statistics.median(taken), cpu, peak, max(beside))


def over_tls(run: Run) -> None:
    """An upstream over TLS, as the real one is: connections made, CPU of a reused and of a fresh one."""
    plain = GATEWAY.with_settings("over HTTP", GATEWAY_THREADS=64)
    secure = plain.with_settings("over TLS", GATEWAY_CA_FILE=run.upstream.authority)
    opened: list[float] = []

    def get(server: Server) -> Sample:
        before = run.upstream.connections()
        sample = load(server, 64, run.plan.seconds, work.GET_JOB)
        if server.target is secure:
            opened.append((run.upstream.connections() - before) * 1000 / sample.requests)
        return sample

    request = work.create_job(work.create_body(1))
    with (
        plain.started(run.upstream.url, run.folder) as one,
        secure.started(run.upstream.secure_url, run.folder) as other,
    ):
        servers = {plain.name: one, secure.name: other}
        check_answers(one, listing=True)
        check_answers(other, listing=True)
        gets = run.rounds({name: partial(get, server) for name, server in servers.items()})
        creates = {name: each for (name, _), each in run.load(servers, 8, request=request).items()}
    # The first round opens what the others use; the counting request itself is a connection too.
    what, of = "upstream over TLS, 64 threads", "new connections per 1,000 requests"
    run.figure(what, f"{of}, first round", opened[0], "", AT_MOST, 64)
    run.figure(what, f"{of}, later rounds", statistics.median(opened[1:] or opened), "")
    what, peer = "get a job over TLS, 64 clients", "itself over HTTP"
    run.compare(what, peer, "cpu", gets[secure.name], gets[plain.name])
    what, cpu = "create on a fresh TLS connection", median(creates[secure.name], "cpu") / 1000
    run.figure(what, "CPU of the gateway", cpu, "ms", AT_MOST, 3)
    run.compare(what, peer, "cpu", creates[secure.name], creates[plain.name])
    named = {(f"get a job {name}",): each for name, each in gets.items()}
    run.medians("tls", named | {(f"create {name}",): each for name, each in creates.items()})


def tool_calls(run: Run) -> None:
    """Getting a job by a tool: 1 and 16 clients, both protocol versions; REST answers at once."""
    with run.started(*targets.BRIDGES.values(), *targets.FASTMCPS.values()) as servers:
        samples = run.load(servers, 1, 16)
    for version, least in ((MODERN, 5.0), (LEGACY, 2.5)):
        _compare_tools(run, samples, version, "", "rate", AT_LEAST, least)
        _compare_tools(run, samples, version, "", "cpu")
    run.medians("mcp", _by_clients(samples))


def tool_calls_over_rest(run: Run) -> None:
    """The same behind the real REST service: what a tool call adds to the plain call, and a large create."""
    rest, bridge = replace(GATEWAY, name="REST", cpu=LOADED_BY), targets.BRIDGES[MODERN].name
    chosen = (*targets.BRIDGES.values(), *targets.FASTMCPS.values())
    with (
        rest.started(run.upstream.url, run.folder) as gateway,
        run.started(*chosen, url=gateway.url) as servers,
    ):
        samples = run.load(servers, 1, 16, rounds=max(1, run.plan.rounds - 2))
        direct = run.load({rest.name: gateway}, 1)
        by_tool = partial(work.tool_call, MODERN, "create-batch-job")
        creates = run.rounds(
            {
                "tool": partial(_created, servers[bridge], by_tool),
                "REST": partial(
                    _created,
                    gateway,
                    lambda body: work.create_job(json.dumps(body).encode(), keyed=True),
                ),
            }
        )
    _compare_tools(run, samples, MODERN, ", the gateway as REST service", "rate")
    added = median(samples[bridge, 1], "p50") - median(direct[rest.name, 1], "p50")
    run.figure("tool call, 1 client", "added to the REST call's p50", added, "ms")
    ratio = statistics.median(tool / plain for tool, plain in zip(*creates.values(), strict=True))
    what = "create with 1,000 inline requests by a tool"
    run.figure(what, "time, of the REST call's", ratio, "x", AT_MOST, 2.0)
    run.medians("mcp_gateway", _by_clients(samples) | _by_clients(direct))
    rows = [[name, round(statistics.median(each), 2)] for name, each in creates.items()]
    run.table("mcp_create", ("what", "ms"), rows)


def _compare_tools(
    run: Run, samples: Samples, version: str, where: str, measure: str, *bar: Any
) -> None:
    ours, theirs = targets.BRIDGES[version].name, targets.FASTMCPS[version].name
    for clients in (1, 16):
        what = f"tool call, {version}, {_clients(clients)}{where}"
        pair = samples[ours, clients], samples[theirs, clients]
        run.compare(what, targets.FASTMCP.name, measure, *pair, *bar)


def _created(server: Server, create: Callable[[dict[str, Any]], Request]) -> float:
    """Milliseconds of a create with 1,000 inline requests, the median of five that repeat no earlier one."""
    body = json.loads(work.create_body(1_000))
    requests = [create({**body, "metadata": {"n": uuid.uuid4().hex}}) for _ in range(5)]
    with Caller(server) as caller:
        return statistics.median(caller.expect(each).milliseconds for each in requests)


def clients(run: Run) -> None:
    """1 to 1,000 clients at once, for two seconds: most of one may pass before 1,000 have a first answer."""
    counts = (1, 16, 250, 1_000) if run.plan.quick else (1, 4, 16, 64, 250, 500, 1_000)
    more = 2 - run.plan.seconds
    with run.started(GATEWAY.with_settings(GATEWAY_QUEUE=1_000), FLASK) as servers:
        samples = run.load(servers, *counts, more=more, rounds=max(2, run.plan.rounds - 2))
    run.medians("growth_clients", samples, WITH_ERRORS, ("what", "clients"))


def workers(run: Run) -> None:
    """One worker and two, which share the machine with load and upstream."""
    one = replace(GATEWAY, name="1 worker", cpu=None)
    two = one.with_settings("2 workers", WEB_CONCURRENCY=2)
    with run.started(one, two) as servers:
        samples = run.load(servers, 32, pinned=False)
    what, peer = "get a job, 32 clients, 2 workers", "itself with 1 worker"
    run.compare(what, peer, "rate", samples[two.name, 32], samples[one.name, 32])
    run.medians("growth_workers", samples, WITH_ERRORS)


def records(run: Run) -> None:
    """Creates with keys, when the store remembers none to many earlier ones."""
    chosen = []
    for count in (0, 10_000) if run.plan.quick else (0, 10_000, 50_000):
        store = run.folder / f"records-{count}.sqlite3"
        remember(run, store, count)
        chosen.append(GATEWAY.with_settings(f"{count:,} records", GATEWAY_STORE=store))
    request = work.create_job(work.create_body(1), keyed=True)
    with run.started(*chosen) as servers:
        samples = run.load(servers, 8, request=request)
    none, most = (samples[each.name, 8] for each in (chosen[0], chosen[-1]))
    what = f"create with a key, {chosen[-1].name}"
    run.compare(what, "itself with none", "cpu", most, none, AT_MOST, 1.1)
    run.medians("growth_records", samples, WITH_ERRORS)


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

    def start(target: Target) -> tuple[float, float]:
        with target.started(run.upstream.url, run.folder) as server:
            return server.ready_after, server.resident() / 2**20

    starts = run.rounds({each.name: partial(start, each) for each in (GATEWAY, FLASK)})
    (ours, resident), (theirs, _) = (
        map(statistics.median, zip(*starts[each.name], strict=True)) for each in (GATEWAY, FLASK)
    )
    run.figure("start", "until the first job is got", ours, "s", AT_MOST, 1.5)
    run.figure("start", "the same, Flask + requests", theirs, "s")
    run.figure("at rest", "memory of a worker", resident, "MiB", AT_MOST, 65)


def collector(run: Run) -> None:
    """The tail with the garbage collector as it is set up, and without any."""
    without = targets.GATEWAY_UNCOLLECTED
    with run.started(GATEWAY, without) as servers:
        samples = run.load(servers, 4)
    what, peer = "get a job, 4 clients", "itself without a collector"
    ours, theirs = (samples[each.name, 4] for each in (GATEWAY, without))
    run.compare(what, peer, "p99", ours, theirs, AT_MOST, 1.15)
    run.medians("collector", samples, ("answers/s", "p50 ms", "p99 ms", "p99.9 ms", "longest ms"))


def waiting(run: Run) -> None:
    """Get a job from an upstream that takes 300 ms: 256 clients and one worker, 500 clients and two."""
    two = (replace(GATEWAY.with_settings(WEB_CONCURRENCY=2), cpu=None), targets.FLASK_2)
    with upstream.slow(run.folder, 300) as slow:
        with run.started(GATEWAY, FLASK, url=slow.url) as servers:
            samples = run.load(servers, 256, more=3)
        with run.started(*two, url=slow.url) as servers:
            samples |= run.load(servers, 500, more=3, pinned=False)
    what, ours = "upstream 300 ms, 256 clients, 1 worker", samples[GATEWAY.name, 256]
    _compare(run, what, samples, 256, FLASK, "rate", AT_LEAST, 0.97)
    run.figure(what, "p50", median(ours, "p50"), "ms", AT_MOST, 330)
    run.figure(what, "errors", median(ours, "errors"), "", AT_MOST, 0)
    what, ours = "upstream 300 ms, 500 clients, 2 workers", samples[GATEWAY.name, 500]
    _compare(run, what, samples, 500, FLASK, "rate", AT_LEAST, 1.0)
    _compare(run, what, samples, 500, FLASK, "p99", AT_MOST, 0.8)
    run.figure(what, "errors", median(ours, "errors"), "", AT_MOST, 0)
    working = {256: "1 worker", 500: "2 workers"}
    named = {(f"{name}, {working[n]}, {n} clients",): each for (name, n), each in samples.items()}
    run.medians("waiting", named)


def delays(run: Run) -> None:
    """An upstream that takes 0, 50 and 300 ms; 64 clients."""
    samples: Samples = {}
    for delay in (50, 300) if run.plan.quick else (0, 50, 300):
        with (
            upstream.slow(run.folder, delay) as slow,
            run.started(GATEWAY, FLASK, url=slow.url) as servers,
        ):
            loads = run.load(servers, 64, more=-1, rounds=max(2, run.plan.rounds - 2))
        samples |= {(name, delay): each for (name, _), each in loads.items()}
    run.medians("growth_delay", samples, WITH_ERRORS, ("what", "upstream ms"))


def in_flight(run: Run) -> None:
    """Memory of one worker while 500 requests wait for the upstream."""
    wide = GATEWAY.with_settings(GATEWAY_THREADS=512)
    seen, over = [0], threading.Event()
    with upstream.slow(run.folder, 300) as slow, run.started(wide, url=slow.url) as servers:

        def watch() -> None:
            while not over.wait(0.2):
                seen.append(servers[wide.name].resident())

        watching = threading.Thread(target=watch)
        watching.start()
        try:
            run.load(servers, 500, more=2, rounds=1)
        finally:
            over.set()
            watching.join()
    run.figure("500 in flight", "memory of the worker", max(seen) / 2**20, "MiB", AT_MOST, 100)


PARTS: tuple[Callable[[Run], None], ...] = (
    get_job, saturated, list_jobs, create, over_tls, tool_calls, tool_calls_over_rest,
    clients, workers, records, start_up, collector, waiting, delays, in_flight,
)  # fmt: skip
"""Everything there is to measure, in its order."""
