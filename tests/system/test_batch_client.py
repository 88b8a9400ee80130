"""Mistral's own client for whole batches, `BatchClient.run`, works through the gateway at every size, also behind nginx.

Up to 1,000 requests it sends in the create, more in a file; the results it downloads as a file, and then deletes all files.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.gateway import Stack, gateway_process
from tests.support.processes import ROOT, sandbox_process
from tests.support.tools_available import tool_python
from tests.system.front import front

CLIENT = Path(__file__).parent / "sdks" / "batch_client.py"
SIZES = [5, 1_001, 10_001]
# version and way -> the environment of .tools, and whether nginx is before the gateway
WAYS = {
    "mistralai 2": ("mistralai-2", False),
    "mistralai 3": ("mistralai-3", False),
    "mistralai 3 through nginx": ("mistralai-3", True),
}


@pytest.fixture(scope="module")
def quick_stack() -> Iterator[Stack]:
    """A sandbox whose jobs are over within seconds, and the REST service before it."""
    with (
        sandbox_process(speed=1000, request_seconds=0.01) as sandbox,
        gateway_process(f"{sandbox.url}/v1") as gateway,
    ):
        yield Stack(gateway, sandbox)


@pytest.fixture(scope="module")
def through_nginx(
    quick_stack: Stack, certificate: tuple[str, str], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[str]:
    """The URL of nginx before it."""
    folder = tmp_path_factory.mktemp("nginx")
    with front(folder, certificate, quick_stack.gateway.address) as running:
        yield running.url


@pytest.mark.parametrize("way", WAYS)
def test_runs_of_every_size_give_every_answer_once_and_leave_no_file(
    request: pytest.FixtureRequest, quick_stack: Stack, certificate: tuple[str, str], way: str
) -> None:
    tool, fronted = WAYS[way]
    url = request.getfixturevalue("through_nginx") if fronted else quick_stack.gateway.url
    sandbox = quick_stack.sandbox
    sandbox.reset()
    done = subprocess.run(
        [tool_python(tool), str(CLIENT), url, *map(str, SIZES)],
        env={**os.environ, "SSL_CERT_FILE": certificate[0]},
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert done.returncode == 0, done.stderr
    whole = {"status": "SUCCESS", "answered": True, "failed": 0}
    assert json.loads(done.stdout) == {str(size): whole for size in SIZES}
    received = Counter(f"{row['method']} {row['path']}" for row in sandbox.ledger())
    assert (received["POST /v1/batch/jobs"], received["POST /v1/files"]) == (3, 2)
    # What the sandbox made of the requests that came in a create.
    assert sandbox.admin("GET", "/sandbox/state")["files"] == 1


def test_the_readmes_example_does_the_whole_job(quick_stack: Stack) -> None:
    (example,) = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    assert "http://127.0.0.1:8080" in example
    done = subprocess.run(
        [tool_python("mistralai-3"), "-"],
        input=example.replace("http://127.0.0.1:8080", quick_stack.gateway.url),
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert (done.returncode, done.stdout.split()[0]) == (0, "SUCCESS"), done.stderr
