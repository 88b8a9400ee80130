"""What ends a command, and with which exit code: 0 all well, 3 some requests failed, 4 none succeeded and 5 a job failed are results,
not errors."""

from __future__ import annotations

import sys
from importlib.util import find_spec
from pathlib import Path

FAILED = 1
BAD_INPUT = 2
SOME_FAILED = 3
NONE_SUCCEEDED = 4
JOB_FAILED = 5
OVER_LIMIT = 6


class BatchError(Exception):
    """Says in its text what was wrong, where, and what to do."""

    exit_code = FAILED


class InputError(BatchError):
    """The table, a template or an option cannot be used; nothing was sent."""

    exit_code = BAD_INPUT


_PACKAGES = {"tables": "pyarrow", "tokens": "mistral-common", "prices": "genai-prices"}


def installing(extra: str) -> str:
    """The command that installs what the extra has. Our own name is no help: it is on no registry."""
    pip = f"{sys.executable} -m pip install"
    if not find_spec("pip"):  # as in uv's environments
        pip = f"uv pip install --python {sys.executable}"
    return f"{pip} {_PACKAGES[extra]}"


def program() -> str:
    """How this command is called, for hints to call it again."""
    if Path(sys.argv[0]).name != "__main__.py":
        return "mistral-batch"
    python = Path(sys.executable)
    here = Path.cwd()
    return f"{python.relative_to(here) if python.is_relative_to(here) else python} -m mistral_batch"


class MissingExtra(InputError):
    """A part is needed that is installed only when asked for."""

    def __init__(self, what: str, extra: str) -> None:
        super().__init__(f"{what} needs the extra {extra!r}; install it with: {installing(extra)}")


class ResultsError(BatchError):
    """What came back does not belong to what was sent: an id that was not asked for, or two answers for one."""


class OverLimit(BatchError):
    """More than a limit of the caller's, or of the account: nothing, or nothing more, was sent."""

    exit_code = OVER_LIMIT
