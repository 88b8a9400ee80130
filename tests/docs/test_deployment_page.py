"""The steps of docs/deployment.md for one host, as they are printed, in folders of the test's own and without what root alone may do."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.support.processes import ROOT, environment, sandbox_process

PAGE = (ROOT / "docs" / "deployment.md").read_text()
INSTALLS = re.compile(r"apt-get|-m venv|pip install")


def step(number: int) -> str:
    """The commands of a step, up to the first that needs systemd."""
    text = re.search(
        rf"^\*\*{number}\. .*?(?=^\*\*{number + 1}\. )", PAGE, re.MULTILINE | re.DOTALL
    )
    assert text
    lines = "".join(re.findall(r"```console\n(.*?)```", text[0], re.DOTALL)).splitlines()
    return "\n".join(
        line.removeprefix("# ") for line in lines if not INSTALLS.search(line)
    ).partition("cp deploy/systemd")[0]


@pytest.fixture
def host(tmp_path: Path) -> Path:
    """A machine's folders, with a repository to clone, and an editor that writes the key."""
    for folder in ("opt", "etc", "var/lib"):
        (tmp_path / folder).mkdir(parents=True)
    origin = tmp_path / "origin"
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    for name in filter(None, listed.stdout.split("\0")):
        if not name.startswith(("tests/", "bench/", "docs/")) and (ROOT / name).is_file():
            (origin / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, origin / name)
    git = ["git", "-c", "user.name=x", "-c", "user.email=x@example.org", "-C", str(origin)]
    for words in (["init", "-q"], ["add", "-A"], ["commit", "-qm", "x"]):
        subprocess.run([*git, *words], check=True)
    editor = tmp_path / "editor"
    editor.write_text('#!/bin/sh\necho a-key > "$1"\n')
    editor.chmod(0o755)
    return tmp_path


def test_program_key_tokens_and_doctor_work_as_the_page_prints_them(host: Path) -> None:
    """The doctor is the last of them: it finds what the steps before made, and nothing wrong."""
    link = f"ln -s {ROOT}/.venv .venv\n.venv/bin/python -m compileall"
    settings = "".join(re.findall(r"```ini\n(GATEWAY.*?)```", PAGE, re.DOTALL))
    script = "\n".join([step(1), step(2), f"cat > $E/rest.env <<'END'\n{settings}END", step(4)])
    script = script.replace("REPOSITORY", str(host / "origin"), 1)
    script = script.replace(".venv/bin/python -m compileall", link)
    for path in ("/opt", "/etc", "/var/lib"):
        script = re.sub(rf"(?<![\w.]){path}/", f"{host}{path}/", script)
    with sandbox_process() as sandbox:
        environ = environment(
            PATH=f"{host}:/usr/bin:/bin",
            GATEWAY_UPSTREAM_URL=f"{sandbox.url}/v1",
            E=f"{host}/etc/mistral-batch-gateway",
        )
        done = subprocess.run(
            ["bash", "-euc", script],
            cwd=host,
            env=environ,
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert len(sandbox.ledger()) == 1
    lines = done.stdout.splitlines()
    assert done.returncode == 0, done.stdout + done.stderr
    assert [line.split(":")[0] for line in lines if re.match("ok |doubt |wrong ", line)] == [
        *("ok     settings", "ok     tokens", "ok     key", "ok     store", "ok     audit log"),
        *("ok     upstream", "ok     upstream"),
    ]
    assert any(line.startswith("ok     tokens: 3, in ") for line in lines)
    assert not list((host / "var/lib").iterdir())
