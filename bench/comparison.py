"""What is compared: the gateway and the bridge with their peers, and with themselves under more of everything.

Each function of PARTS starts targets, measures them in rounds, and adds bars and tables to the run.
"""

from __future__ import annotations

import json
import sqlite3
import statistics
import threading
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from bench import targets, upstream, work
from bench.load import Caller, Sample, Stall, WrongAnswer, load
from bench.machine import LOADED_BY
from bench.processes import Server, Target
from bench.run import AT_LEAST, AT_MOST, WITH_ERRORS, Run, Samples, check_answers, median
from bench.targets import BRIDGE, FASTMCP, FLASK, GATEWAY
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
    named = {(f"{name}, {clients} clients",): each for (name, clients), each in samples.items()}
    run.medians("get_job", dict(sorted(named.items())))
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

    The largest also with keys. The peers know none: theirs are the same creates as without.
    """
    httpx = targets.FASTAPI_HTTPX.name
    limits = {httpx: 0.15, targets.STARLETTE_HTTPX.name: 1.1}
    chosen = (
        GATEWAY, FLASK, targets.STARLETTE_HTTPX, targets.FASTAPI_HTTPX,
        targets.FASTAPI_HTTPX_TEXT, targets.FASTAPI_HTTPX_RAW,
    )  # fmt: skip
    check_creates(run, *chosen)
    bodies = {size: work.create_body(size) for size in work.SIZES}
    largest = max(bodies)
    keyed = f"{GATEWAY.name}, with a key"
    with run.started(*chosen) as servers:
        at_rest = {name: server.resident() for name, server in servers.items()}
        runs = {
            (name, size): partial(_creates, server, work.create_job(body))
            for size, body in bodies.items()
            for name, server in servers.items()
        }
        request = work.create_job(bodies[largest], keyed=True)
        runs[keyed, largest] = partial(_creates, servers[GATEWAY.name], request)
        creates = run.rounds(runs)
    at_rest[keyed] = at_rest[GATEWAY.name]
    added = {name: median(creates[name, largest], "peak") - at_rest[name] for name in at_rest}
    stalls = {name: median(creates[name, largest], "stall") for name in at_rest}
    what = f"create with {largest:,} inline requests ({len(bodies[largest]) / 1e6:.0f} MB)"
    for ours, label in ((GATEWAY.name, what), (keyed, f"{what}, with a key")):
        for peer in servers:
            if peer != GATEWAY.name:
                bar = (AT_MOST, limits[peer]) if label == what and peer in limits else ()
                run.compare(
                    label, peer, "p50", creates[ours, largest], creates[peer, largest], *bar
                )
    share = added[GATEWAY.name] / added[httpx]
    run.figure(what, "added memory, of FastAPI + httpx's", share, "x", AT_MOST, 0.3)
    run.figure("a small request meanwhile", "stalled", stalls[GATEWAY.name], "ms", AT_MOST, 35)
    rows = [
        [*key, *(round(median(each, measure), 2) for measure in ("p50", "cpu"))]
        for key, each in creates.items()
    ]
    run.table("create", ("what", "requests", "ms", "CPU ms"), rows)
    rows = [[name, round(added[name] / 2**20, 1), round(stalls[name], 1)] for name in at_rest]
    run.table("create_largest", ("what", "MiB", "stall ms"), rows)


def check_creates(run: Run, *chosen: Target) -> None:
    """WrongAnswer unless each sends a create upstream as it came, and passes on its answer."""
    with upstream.slow(run.folder, 0) as recorder:
        for target in chosen:
            with target.started(recorder.url, run.folder) as server, Caller(server) as caller:
                for size in (1, 1_000):
                    body = work.create_body(size)
                    caller.create(work.create_job(body))
                    if upstream.last_body(recorder) != json.loads(body):
                        raise WrongAnswer(f"{target.name} changed a create of {size} requests")


def _creates(server: Server, request: Request) -> Creates:
    times = 20 if len(request.body) < 1_000_000 else 3
    with Caller(server) as caller:
        server.forget_peak()
        before = server.cpu_seconds()
        taken = [caller.create(request).milliseconds for _ in range(times)]
        cpu = (server.cpu_seconds() - before) * 1000 / times
        peak = server.peak()
        with Stall(server) as stall:
            caller.create(request)
    return Creates(statistics.median(taken), cpu, peak, stall.longest)


def over_tls(run: Run) -> None:
    """An upstream over TLS, as the real one is: connections made, CPU of a reused and of a fresh one."""
    plain = GATEWAY.with_settings("over HTTP", GATEWAY_THREADS=64)
    secure = plain.with_settings("over TLS", GATEWAY_CA_FILE=run.upstream.authority)
    opened: list[float] = []

    def get(server: Server) -> Sample:
        before = run.upstream.connections()
        sample = load(server, 64, run.plan.seconds)
        if server.target is secure:
            opened.append((run.upstream.connections() - before) * 1000 / sample.requests)
        return sample

    request = work.create_job(work.create_body(1))
    with (
        plain.started(run.upstream.url, run.folder) as one,
        secure.started(run.upstream.secure_url, run.folder) as other,
    ):
        servers = {plain.name: one, secure.name: other}
        for name, server in servers.items():
            check_answers(name, server)
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


ToolSamples = dict[tuple[str, str, int], list[Sample]]
"""Samples of getting a job by a tool, by a target's name, protocol version and number of clients."""


def tool_calls(run: Run) -> None:
    """Getting a job by a tool: 1 and 16 clients, both protocol versions; REST answers at once."""
    with _bridges(run, run.upstream.url) as servers:
        samples = _tool_loads(run, servers, run.plan.rounds)
    for version, least in ((MODERN, 5.0), (LEGACY, 2.5)):
        for clients in (1, 16):
            what = f"tool call, {version}, {_clients(clients)}"
            ours, theirs = (samples[each.name, version, clients] for each in (BRIDGE, FASTMCP))
            run.compare(what, FASTMCP.name, "rate", ours, theirs, AT_LEAST, least)
            run.compare(what, FASTMCP.name, "cpu", ours, theirs)
    run.medians("mcp", _named(samples))


def tool_calls_over_rest(run: Run) -> None:
    """The same behind the real REST service: what a tool call adds to the plain call, and a large create."""
    rest = replace(GATEWAY, name="REST", cpu=LOADED_BY)
    with (
        rest.started(run.upstream.url, run.folder) as gateway,
        _bridges(run, gateway.url) as servers,
    ):
        samples = _tool_loads(run, servers, max(1, run.plan.rounds - 2))
        direct = run.load({rest.name: gateway}, 1)[rest.name, 1]
        by_tool = partial(_created_by_tool, servers[BRIDGE.name])
        creates = run.rounds({"tool": by_tool, "REST": partial(_created_by_rest, gateway)})
    for clients in (1, 16):
        what = f"tool call, {MODERN}, {_clients(clients)}, the gateway as REST service"
        ours, theirs = (samples[each.name, MODERN, clients] for each in (BRIDGE, FASTMCP))
        run.compare(what, FASTMCP.name, "rate", ours, theirs)
    added = median(samples[BRIDGE.name, MODERN, 1], "p50") - median(direct, "p50")
    run.figure("tool call, 1 client", "added to the REST call's p50", added, "ms")
    ratio = statistics.median(tool / plain for tool, plain in zip(*creates.values(), strict=True))
    what = "create with 1,000 inline requests by a tool"
    run.figure(what, "time, of the REST call's", ratio, "x", AT_MOST, 2.0)
    run.medians("mcp_gateway", _named(samples) | {("REST, 1 clients",): direct})
    rows = [[name, round(statistics.median(each), 2)] for name, each in creates.items()]
    run.table("mcp_create", ("what", "ms"), rows)


@contextmanager
def _bridges(run: Run, url: str) -> Iterator[dict[str, Server]]:
    """Bridge and fastmcp, running before the REST service at `url`, found right and warmed up."""
    with BRIDGE.started(url, run.folder) as bridge, FASTMCP.started(url, run.folder) as fastmcp:
        for server in (bridge, fastmcp):
            for version in (MODERN, LEGACY):
                check_tool(server, version)
                load(server, 4, 1, _getting(server.target, version))
        yield {BRIDGE.name: bridge, FASTMCP.name: fastmcp}


def check_tool(server: Server, version: str) -> None:
    """WrongAnswer unless it gives the job as structured content and as text."""
    job = json.loads(work.JOB)
    with Caller(server) as caller:
        answer = caller.call(_getting(server.target, version))
    result = work.tool_result(answer.body) if answer.status == 200 else {}
    given = [result.get("structuredContent")]
    given += [json.loads(each["text"]) for each in result.get("content", [])]
    if given != [job, job]:
        raise WrongAnswer(f"{server.target.name}, {version}: {answer}")


def _getting(target: Target, version: str) -> Request:
    """The call that gets the job, with the names that each derives from the document."""
    if target.name == BRIDGE.name:
        return work.tool_call(version, "get-batch-job", {"job_id": work.JOB_ID})
    return work.tool_call(version, "getbatchjob", {"job-id": work.JOB_ID})


def _tool_loads(run: Run, servers: Mapping[str, Server], rounds: int) -> ToolSamples:
    runs = {
        (name, version, clients): partial(
            load, server, clients, run.plan.seconds, _getting(server.target, version)
        )
        for name, server in servers.items()
        for version in (MODERN, LEGACY)
        for clients in (1, 16)
    }
    return run.rounds(runs, rounds)


def _named(samples: ToolSamples) -> dict[tuple[str], list[Sample]]:
    return {
        (f"{name}, {version}, {clients} clients",): each
        for (name, version, clients), each in sorted(samples.items())
    }


def _created_by_tool(bridge: Server) -> float:
    """Milliseconds of a create with 1,000 inline requests by a tool, the median of five other ones."""
    taken = []
    for body in _other_creates(5):
        with Caller(bridge) as caller:
            answer = caller.call(work.tool_call(MODERN, "create-batch-job", body))
        if work.tool_result(answer.body).get("structuredContent", {}).get("id") != work.JOB_ID:
            raise WrongAnswer(f"a create by a tool was answered {answer}")
        taken.append(answer.milliseconds)
    return statistics.median(taken)


def _created_by_rest(gateway: Server) -> float:
    """The same by REST."""
    requests = [
        work.create_job(json.dumps(body).encode(), keyed=True) for body in _other_creates(5)
    ]
    with Caller(gateway) as caller:
        return statistics.median(caller.create(request).milliseconds for request in requests)


def _other_creates(count: int) -> list[dict[str, Any]]:
    """Creates with 1,000 inline requests, none of which repeats an earlier one."""
    body = json.loads(work.create_body(1_000))
    return [{**body, "metadata": {"number": uuid.uuid4().hex}} for _ in range(count)]


def clients(run: Run) -> None:
    """1 to 1,000 clients at once."""
    counts = (1, 16, 250, 1_000) if run.plan.quick else (1, 4, 16, 64, 250, 500, 1_000)
    with run.started(GATEWAY.with_settings(GATEWAY_QUEUE=1_000), FLASK) as servers:
        samples = run.load(servers, *counts, more=-1, rounds=max(2, run.plan.rounds - 2))
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
        caller.create(work.create_job(work.create_body(1), keyed=True))
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
