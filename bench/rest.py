"""The REST service against its peers: issue by issue, one function for each kind of work."""

from __future__ import annotations

import json
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path

from bench import load, subjects, upstream, work
from bench.calls import Caller, Stall
from bench.findings import Findings
from bench.load import Call, Sample
from bench.processes import Server
from bench.rounds import Plan, interleaved, median
from bench.subjects import Subject
from bench.upstream import Upstream

GATEWAY = subjects.GATEWAY.name
FLASK = subjects.FLASK.name
AT_MOST, AT_LEAST = "at most", "at least"

Samples = dict[tuple[str, int], list[Sample]]
COLUMNS = ("answers/s", "p50 ms", "p99 ms", "CPU us")


class WrongAnswer(RuntimeError):
    """A peer does not do the work, so its figures would mean nothing."""


@contextmanager
def all_started(
    chosen: Sequence[Subject], url: str, folder: Path, *, check: bool = True
) -> Iterator[dict[str, Server]]:
    """The running servers by name, each warmed up, once its answer was found right."""
    with ExitStack() as stack:
        servers = {each.name: stack.enter_context(each.started(url, folder)) for each in chosen}
        for name, server in servers.items():
            if check:
                check_answers(name, server)
            load.run(server, work.JOB_PATH, 16, 1)
        yield servers


def check_answers(name: str, server: Server) -> None:
    """WrongAnswer unless job and list come as the upstream gave them."""
    with Caller(server) as caller:
        for path, expected in ((work.JOB_PATH, work.JOB), (work.JOBS_PATH, work.LIST)):
            answer = caller.call("GET", path)
            right = answer.status == 200 and answer.body == expected
            if not right or not answer.content_type.startswith("application/json"):
                raise WrongAnswer(f"{name} answered GET {path} with {answer}")


def check_creates(chosen: Sequence[Subject], folder: Path) -> None:
    """WrongAnswer unless each sends a create upstream as it came, and passes on its answer."""
    with upstream.slow(folder, 0) as recorder:
        for subject in chosen:
            with subject.started(recorder.url, folder) as server, Caller(server) as caller:
                for size in (1, 1_000):
                    body = work.create_body(size)
                    caller.create(body)
                    if upstream.last_body(recorder) != json.loads(body):
                        raise WrongAnswer(f"{subject.name} changed a create of {size} requests")


def _runs(
    servers: Mapping[str, Server], clients: Sequence[int], seconds: int, path: str = work.JOB_PATH
) -> dict[tuple[str, int], Callable[[], Sample]]:
    return {
        (name, each): partial(load.run, server, path, each, seconds)
        for each in clients
        for name, server in servers.items()
    }


def _rows(samples: Samples, name: Callable[[tuple[str, int]], str]) -> list[list[str | float]]:
    found = ((key, median(each)) for key, each in samples.items())
    return [[name(key), *(each[m] for m in ("rate", "p50", "p99", "cpu"))] for key, each in found]


def get_job(up: Upstream, folder: Path, plan: Plan, findings: Findings) -> None:
    """Get a job, upstream at once: 1 and 32 clients, all peers."""
    pools = _best_pools(up, folder, plan)
    chosen = [
        subjects.GATEWAY, subjects.FLASK, *pools.values(), subjects.FASTAPI_AIOHTTP,
        subjects.AIOHTTP, subjects.NGINX,
    ]  # fmt: skip
    if plan.quick:
        findings.skipped.append("LiteLLM: its start alone takes half a minute; a full run has it")
    elif not Path(subjects.LITELLM_PROXY.command[0]).exists():
        findings.skipped.append("LiteLLM: not installed in .tools/litellm")
    else:
        chosen.append(subjects.LITELLM_PROXY)
    chosen = list({each.name: each for each in chosen}.values())  # one pool may be best for both
    with all_started(chosen, up.url, folder) as servers:
        samples = interleaved(plan.rounds, _runs(servers, (1, 32), plan.seconds))
        resident = {name: server.resident() / 2**20 for name, server in servers.items()}
    for clients in (1, 32):
        work_name = f"get a job, {clients} client{'s' * (clients > 1)}"
        ours = samples[GATEWAY, clients]

        def against(
            peer: str,
            measure: str,
            bound: str = "",
            limit: float = 0.0,
            label: str = "",
            work_name: str = work_name,
            ours: list[Sample] = ours,
            clients: int = clients,
        ) -> None:
            theirs = samples[peer, clients]
            findings.compare(work_name, label or peer, measure, ours, theirs, bound, limit)  # fmt: skip

        against(FLASK, "cpu", AT_MOST, 1.0)
        against(FLASK, "rate")
        httpx = pools[clients].name
        against(httpx, "rate", AT_LEAST, 1.6 if clients == 1 else 2.7)
        against(subjects.FASTAPI_AIOHTTP.name, "rate")
        against(subjects.FASTAPI_AIOHTTP.name, "cpu")
        if subjects.LITELLM_PROXY.name in servers:
            against(subjects.LITELLM_PROXY.name, "rate", AT_LEAST, 8)
        against(subjects.NGINX.name, "cpu")
        against(subjects.AIOHTTP.name, "cpu")
    added = [
        our.p50 - their.p50
        for our, their in zip(samples[GATEWAY, 1], samples[subjects.NGINX.name, 1], strict=True)
    ]
    findings.hold("get a job, 1 client", "added to nginx's p50", statistics.median(added), "ms")
    if subjects.LITELLM_PROXY.name in servers:
        share = resident[GATEWAY] / resident[subjects.LITELLM_PROXY.name]
        findings.hold("get a job", "memory, of LiteLLM's", share, "x", AT_MOST, 0.2)
    rows = _rows(samples, lambda key: f"{key[0]}, {key[1]} clients")
    findings.table("get_job", "Get a job, upstream at once", ("what", *COLUMNS), sorted(rows))
    findings.table(
        "memory",
        "Resident memory of a worker after 1 and 32 clients, MiB",
        ("what", "MiB"),
        [[name, round(each, 1)] for name, each in resident.items()],
    )


def _best_pools(up: Upstream, folder: Path, plan: Plan) -> dict[int, Subject]:
    """FastAPI + httpx with the pool setting that is fastest here, for 1 and for 32 clients."""
    variants = [
        subjects.FASTAPI_HTTPX.with_settings(f"FastAPI + httpx, pool {pool}", POOL=pool)
        for pool in (subjects.HTTPX_POOLS[:2] if plan.quick else subjects.HTTPX_POOLS)
    ]
    with all_started(variants, up.url, folder) as servers:
        samples = interleaved(2, _runs(servers, (1, 32), max(1, plan.seconds - 1)))
    by_name = {each.name: each for each in variants}
    return {
        clients: by_name[max(servers, key=lambda name: median(samples[name, clients])["rate"])]
        for clients in (1, 32)
    }


def saturated(up: Upstream, folder: Path, plan: Plan, findings: Findings) -> None:
    """Get a job, 256 clients: more than one core can serve."""
    with all_started([subjects.GATEWAY, subjects.FLASK], up.url, folder) as servers:
        samples = interleaved(plan.rounds, _runs(servers, (256,), plan.seconds + 2))
    name, ours = "get a job, 256 clients (saturated)", samples[GATEWAY, 256]
    findings.compare(name, FLASK, "p99", ours, samples[FLASK, 256], AT_MOST, 0.4)
    findings.hold(name, "p99", median(ours)["p99"], "ms", AT_MOST, 600)
    findings.compare(name, FLASK, "rate", ours, samples[FLASK, 256])
    findings.hold(name, "errors", median(ours)["errors"], "", AT_MOST, 0)
    rows = _rows(samples, lambda key: key[0])
    findings.table("saturated", "Get a job, 256 clients", ("what", *COLUMNS), rows)


def waiting(folder: Path, plan: Plan, findings: Findings) -> None:
    """Get a job from an upstream that takes 300 ms: 256 clients and one worker, 500 clients and two."""
    with upstream.slow(folder, 300) as slow:
        one = [subjects.GATEWAY, subjects.FLASK]
        with all_started(one, slow.url, folder, check=False) as servers:
            samples = interleaved(plan.rounds, _runs(servers, (256,), plan.seconds + 3))
        name, ours, theirs = "upstream 300 ms, 256 clients, 1 worker", *samples.values()
        findings.compare(name, FLASK, "rate", ours, theirs, AT_LEAST, 0.97)
        findings.hold(name, "p50", median(ours)["p50"], "ms", AT_MOST, 330)
        findings.hold(name, "errors", median(ours)["errors"], "", AT_MOST, 0)
        rows = _rows(samples, lambda key: f"{key[0]}, 1 worker, 256 clients")

        two = [subjects.GATEWAY.with_settings(WEB_CONCURRENCY=2, pinned=False), subjects.FLASK_2]
        with all_started(two, slow.url, folder, check=False) as servers:
            runs = {
                (key, 500): partial(
                    load.run, server, work.JOB_PATH, 500, plan.seconds + 3, pinned=False
                )
                for key, server in servers.items()
            }
            samples = interleaved(plan.rounds, runs)
        name, ours, theirs = "upstream 300 ms, 500 clients, 2 workers", *samples.values()
        findings.compare(name, FLASK, "rate", ours, theirs, AT_LEAST, 1.0)
        findings.compare(name, FLASK, "p99", ours, theirs, AT_MOST, 0.8)
        findings.hold(name, "errors", median(ours)["errors"], "", AT_MOST, 0)
        rows += _rows(samples, lambda key: f"{key[0]}, 2 workers, 500 clients")
    findings.table("waiting", "Get a job, upstream 300 ms", ("what", *COLUMNS), rows)


def list_jobs(up: Upstream, folder: Path, plan: Plan, findings: Findings) -> None:
    """List 100 jobs, 92 KB."""
    chosen = [subjects.GATEWAY, subjects.FLASK, subjects.FASTAPI_HTTPX]
    with all_started(chosen, up.url, folder) as servers:
        runs = _runs(servers, (16,), plan.seconds, work.JOBS_PATH)
        samples = interleaved(plan.rounds, runs)
    name, ours = "list of 100 jobs (92 KB)", samples[GATEWAY, 16]
    findings.compare(name, FLASK, "cpu", ours, samples[FLASK, 16], AT_MOST, 1.0)
    findings.compare(name, FLASK, "rate", ours, samples[FLASK, 16])
    rows = _rows(samples, lambda key: key[0])
    findings.table("list_jobs", "List of 100 jobs, 16 clients", ("what", *COLUMNS), rows)


def create(up: Upstream, folder: Path, plan: Plan, findings: Findings) -> None:
    """Create jobs with 10 to 10,000 inline requests: time, CPU, memory, and what others wait meanwhile."""
    chosen = [
        subjects.GATEWAY, subjects.FLASK, subjects.STARLETTE_HTTPX, subjects.FASTAPI_HTTPX,
        subjects.FASTAPI_HTTPX_TEXT,
        subjects.FASTAPI_HTTPX_RAW,
    ]  # fmt: skip
    check_creates(chosen, folder)
    bodies = {size: work.create_body(size) for size in work.SIZES}
    with all_started(chosen, up.url, folder) as servers:
        at_rest = {name: server.resident() for name, server in servers.items()}
        runs = {
            (name, size): partial(_creates, server, bodies[size], 20 if size < 1_000 else 3)
            for size in sorted(bodies)  # memory grows with the largest
            for name, server in servers.items()
        }
        results = interleaved(plan.rounds, runs)
    largest = max(bodies)
    times = {key: [each[0] for each in found] for key, found in results.items()}
    added = {
        name: statistics.median(each[2] for each in results[name, largest]) - at_rest[name]
        for name in servers
    }
    name = f"create with {largest:,} inline requests ({len(bodies[largest]) / 1e6:.0f} MB)"
    for peer, bound in ((subjects.FASTAPI_HTTPX.name, 0.15), (subjects.STARLETTE_HTTPX.name, 1.1)):
        _compare_times(findings, name, peer, times[GATEWAY, largest], times[peer, largest], bound)
    share = added[GATEWAY] / added[subjects.FASTAPI_HTTPX.name]
    findings.hold(name, "added memory, of FastAPI + httpx's", share, "x", AT_MOST, 0.3)
    for peer in (subjects.FASTAPI_HTTPX_TEXT.name, subjects.FASTAPI_HTTPX_RAW.name, FLASK):
        _compare_times(findings, name, peer, times[GATEWAY, largest], times[peer, largest])
    stalls = {server: [each[3] for each in results[server, largest]] for server in servers}
    longest = statistics.median(stalls[GATEWAY])
    findings.hold("a small request meanwhile", "stalled", longest, "ms", AT_MOST, 35)
    findings.table(
        "create",
        "Create: time and CPU by number of inline requests",
        ("what", "requests", "ms", "CPU ms"),
        [
            [server, size, *(round(statistics.median(r[i] for r in results[server, size]), 2) for i in (0, 1))]
            for server, size in results
        ],
    )  # fmt: skip
    findings.table(
        "create_largest",
        f"{name}: added peak memory, and the longest stall of a small request meanwhile",
        ("what", "MiB", "stall ms"),
        [
            [each, round(added[each] / 2**20, 1), round(statistics.median(stalls[each]), 1)]
            for each in servers
        ],
    )


def _compare_times(
    findings: Findings,
    name: str,
    peer: str,
    ours: list[float],
    theirs: list[float],
    limit: float = 0,
) -> None:
    """As `Findings.compare`, for single calls' milliseconds."""
    ours_, theirs_ = ([replace(_NOTHING, p50=each) for each in side] for side in (ours, theirs))
    findings.compare(name, peer, "p50", ours_, theirs_, AT_MOST if limit else "", limit)


_NOTHING = Sample(0, 0, 0, 0, 0, 0, 0)


def _creates(server: Server, body: bytes, times: int) -> tuple[float, float, int, float]:
    """Of some creates one after another: the median's milliseconds, CPU milliseconds of each, peak bytes; then the longest stall beside one."""
    with Caller(server) as caller:
        server.forget_peak()
        before = server.cpu_seconds()
        taken = [caller.create(body).milliseconds for _ in range(times)]
        cpu = (server.cpu_seconds() - before) * 1000 / times
        peak = server.peak()
        with Stall(server) as stall:
            caller.create(body)
    return statistics.median(taken), cpu, peak, stall.longest


def over_tls(up: Upstream, folder: Path, plan: Plan, findings: Findings) -> None:
    """An upstream over TLS, as the real one is: connections made, CPU of a reused and of a fresh one."""
    plain = subjects.GATEWAY.with_settings("over HTTP", GATEWAY_THREADS=64)
    secure = subjects.GATEWAY.with_settings(
        "over TLS", GATEWAY_THREADS=64, GATEWAY_CA_FILE=up.authority
    )
    body = work.create_body(1)
    post = Call(folder, "create", "POST", {"Content-Type": "application/json"}, body)
    with plain.started(up.url, folder) as one, secure.started(up.secure_url, folder) as other:
        servers = {plain.name: one, secure.name: other}
        for name, server in servers.items():
            check_answers(name, server)
        opened: list[float] = []

        def counted(server: Server) -> Sample:
            before = up.connections()
            sample = load.run(server, work.JOB_PATH, 64, plan.seconds)
            if server is other:
                opened.append((up.connections() - before) * 1000 / sample.requests)
            return sample

        gets = interleaved(
            plan.rounds, {name: partial(counted, server) for name, server in servers.items()}
        )
        creates = interleaved(
            plan.rounds,
            {
                name: partial(load.run, server, work.JOBS_PATH, 8, plan.seconds, post)
                for name, server in servers.items()
            },
        )
    # The first round opens what the others use; the counting request itself is a connection too.
    findings.hold(
        "upstream over TLS, 64 threads", "new connections per 1,000 requests, first round",
        opened[0], "", AT_MOST, 64,
    )  # fmt: skip
    findings.hold(
        "upstream over TLS, 64 threads", "new connections per 1,000 requests, later rounds",
        statistics.median(opened[1:] or opened), "",
    )  # fmt: skip
    name = "get a job over TLS, 64 clients"
    findings.compare(name, "itself over HTTP", "cpu", gets[secure.name], gets[plain.name])
    name = "create on a fresh TLS connection"
    cpu = median(creates[secure.name])["cpu"] / 1000
    findings.hold(name, "CPU of the gateway", cpu, "ms", AT_MOST, 3)
    findings.compare(name, "itself over HTTP", "cpu", creates[secure.name], creates[plain.name])
    findings.table(
        "tls",
        "Upstream over HTTP and over TLS",
        ("what", *COLUMNS),
        [
            [f"{what} {key}", *(median(each)[m] for m in ("rate", "p50", "p99", "cpu"))]
            for what, found in (("get a job", gets), ("create", creates))
            for key, each in found.items()
        ],
    )
