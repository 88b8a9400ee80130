"""Load by wrk, and what came of it."""

from __future__ import annotations

import json
import shutil
import subprocess
import uuid
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from bench.machine import LOADED_BY
from bench.processes import Server

_REPORT = Path(__file__).with_name("report.lua")


@dataclass(frozen=True)
class Sample:
    """One run: answers per second, milliseconds of latency, CPU microseconds of the server per answer, errors."""

    rate: float
    p50: float
    p99: float
    p999: float
    longest: float
    cpu: float
    errors: int
    requests: int = 0

    def members(self) -> dict[str, float]:
        """Its figures by name."""
        return asdict(self)


def run(
    server: Server,
    path: str,
    clients: int,
    seconds: int,
    call: Call | None = None,
    *,
    pinned: bool = True,
) -> Sample:
    """Asks `server` from so many connections for so many seconds; `call` None: a plain GET."""
    wrk = shutil.which("wrk") or "wrk"
    command = [wrk, "-t1", f"-c{clients}", f"-d{seconds}s", "--timeout", "15s"]
    if pinned:
        command = ["taskset", "-c", str(LOADED_BY), *command]
    command += ["-s", str(call.script if call else _REPORT), server.url + path]
    before = server.cpu_seconds()
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    cpu = server.cpu_seconds() - before
    found: dict[str, Any] = json.loads(done.stdout.rpartition("RESULT ")[2])
    return Sample(
        rate=found["requests"] / found["seconds"],
        p50=found["p50"],
        p99=found["p99"],
        p999=found["p999"],
        longest=found["max"],
        cpu=cpu * 1e6 / max(found["requests"], 1),
        errors=found["errors"],
        requests=found["requests"],
    )


class Call:
    """A request other than a plain GET, as a script for wrk below `folder`. `keyed`: each with a key of its own."""

    def __init__(
        self,
        folder: Path,
        name: str,
        method: str,
        headers: Mapping[str, str],
        body: bytes,
        *,
        keyed: bool = False,
    ) -> None:
        content = folder / f"{name}.body"
        content.write_bytes(body)
        lines = [f'wrk.method = "{method}"', f'wrk.body = io.open("{content}", "rb"):read("*a")']
        lines += [f'wrk.headers["{name}"] = "{value}"' for name, value in headers.items()]
        if keyed:
            lines.append(_KEYED.replace("PREFIX", uuid.uuid4().hex))
        self.script = folder / f"{name}.lua"
        self.script.write_text(
            "\n".join([*lines, _REPORT.read_text(encoding="utf-8")]), encoding="utf-8"
        )


_KEYED = """
local count = 0
function request()
  count = count + 1
  wrk.headers["Idempotency-Key"] = "PREFIX-" .. os.time() .. "-" .. count
  return wrk.format()
end
"""
