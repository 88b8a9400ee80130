"""What is left of the command when it is a process: a terminal, Ctrl-C, and a pipe that nobody reads to its end.

The sandbox's clock stands still, so that no job is over by itself.
"""

from __future__ import annotations

import os
import pty
import signal
import subprocess
import sys
import termios
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from tests.mistral_batch.conftest import Tokens
from tests.support.api import jobs
from tests.support.gateway import Gateway
from tests.support.processes import ROOT, Sandbox, environment, wait_until

ALL_DAY = 86_000.0


@pytest.fixture
def environ(gateway: Gateway, tokens: Tokens, sandbox: Sandbox, tmp_path: Path) -> dict[str, str]:
    (tmp_path / "table.csv").write_text("text\n" + "".join(f"{n}\n" for n in range(1_000)))
    return environment(
        PYTHONPATH=ROOT,
        MISTRAL_BATCH_URL=gateway.url,
        MISTRAL_BATCH_TOKEN=tokens.full,
        MISTRAL_BATCH_HOME=tmp_path / "runs",
    )


class Terminal:
    """A command on a terminal of its own: what it shows there, and keys."""

    def __init__(self, words: list[str], environ: dict[str, str], columns: int) -> None:
        self.shown = ""
        self.keys, theirs = pty.openpty()
        termios.tcsetwinsize(theirs, (24, columns))
        self.process = subprocess.Popen(
            [sys.executable, "-m", "mistral_batch", *words],
            env=environ | {"TERM": "xterm", "CI": ""},
            stdin=theirs,
            stdout=subprocess.DEVNULL,
            stderr=theirs,
            cwd=Path(environ["MISTRAL_BATCH_HOME"]).parent,
            start_new_session=True,
        )
        os.close(theirs)

    def shows(self, text: str) -> None:
        """Returns when that was shown."""
        while text not in self.shown:
            piece = b""
            with suppress(OSError):  # EIO: the command has ended
                piece = os.read(self.keys, 4096)
            assert piece, self.shown
            self.shown += piece.decode()

    def end(self) -> int:
        """Its exit code."""
        with suppress(OSError):
            while piece := os.read(self.keys, 4096):
                self.shown += piece.decode()
        return self.process.wait(20)


@contextmanager
def terminal(
    environ: dict[str, str], prompt: str, *words: str, columns: int = 80
) -> Iterator[Terminal]:
    asked = ["run", "table.csv", "--prompt", f"{prompt} {{text}}", "--model", "m"]
    shown = Terminal([*asked, *words], environ, columns)
    try:
        yield shown
    finally:
        shown.process.kill()
        shown.process.wait()
        os.close(shown.keys)


def creates(sandbox: Sandbox) -> int:
    return len(sandbox.ledger(method="POST", path="/v1/batch/jobs"))


def test_a_terminal_is_asked_and_no_buys_nothing(environ: dict[str, str], sandbox: Sandbox) -> None:
    for keys, code in ((b"n\n", 1), (b"\x04", 1), (b"", 130)):  # no, Ctrl-D, Ctrl-C
        with terminal(environ, "asked") as shown:
            shown.shows("Go on? [Y/n] ")
            os.write(shown.keys, keys)
            if not keys:
                shown.process.send_signal(signal.SIGINT)
            assert shown.end() == code and "Nothing was sent" in shown.shown
    assert creates(sandbox) == 0


def test_ctrl_c_says_how_to_watch_again_and_the_same_command_goes_on(
    environ: dict[str, str], sandbox: Sandbox
) -> None:
    with terminal(environ, "interrupted") as shown:
        shown.shows("Go on? [Y/n] ")
        os.write(shown.keys, b"\n")
        shown.shows("0/1,000")
        shown.process.send_signal(signal.SIGINT)
        assert shown.end() == 130
        assert " watch table-" in shown.shown and "Traceback" not in shown.shown
    assert creates(sandbox) == 1
    with terminal(environ, "interrupted") as first:
        first.shows("0/1,000")
        with terminal(environ, "interrupted") as second:
            second.shows("looks on")
            sandbox.advance(ALL_DAY)
            assert (first.end(), second.end()) == (0, 0)
        assert "1,000/1,000" in first.shown
    assert creates(sandbox) == 1


def test_a_reader_that_has_enough_ends_it_quietly(
    environ: dict[str, str], sandbox: Sandbox, tmp_path: Path
) -> None:
    command = f"{sys.executable} -m mistral_batch run table.csv --prompt 'head {{text}}' --model m --yes | head -1"
    process = subprocess.Popen(
        ["sh", "-c", command],
        env=environ,
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    wait_until(lambda: jobs(sandbox), 60)
    sandbox.advance(ALL_DAY)
    out, said = process.communicate(timeout=60)
    assert out.count("\n") == 1 and "Traceback" not in said and "roken pipe" not in said
