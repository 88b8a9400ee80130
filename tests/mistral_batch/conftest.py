"""A gateway with tokens before the sandbox, whose clock stands still unless a test moves it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from access.token_file import make_token
from tests.support.gateway import Gateway, gateway_process
from tests.support.processes import Sandbox

JOBS = ["jobs:read", "jobs:write"]
FILES = ["files:read", "files:write"]


class Tokens(NamedTuple):
    """Of a caller who may do all, and of callers who may not upload, or not touch files at all."""

    full: str
    reader: str
    jobs_only: str


@pytest.fixture(scope="session")
def token_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("tokens") / "tokens"


@pytest.fixture(scope="session")
def tokens(token_path: Path) -> Tokens:
    callers = {"full": JOBS + FILES, "reader": [*JOBS, "files:read"], "jobs-only": JOBS}
    token_path.touch()
    return Tokens(
        *(make_token(name, scopes, None, token_path)[0] for name, scopes in callers.items())
    )


@pytest.fixture(scope="session")
def gateway(running_sandbox: Sandbox, token_path: Path, tokens: Tokens) -> Iterator[Gateway]:
    with gateway_process(f"{running_sandbox.url}/v1", GATEWAY_TOKENS_FILE=token_path) as running:
        yield running
