"""The Makefile: what it offers is what it says."""

from __future__ import annotations

import re
import subprocess

from stack.config import PROJECT


def test_make_alone_lists_every_target():
    targets = re.search(r"^\.PHONY: (.+)$", (PROJECT / "Makefile").read_text(), re.M)[1].split()
    listed = subprocess.run(
        ["make"], cwd=PROJECT, capture_output=True, text=True, check=True
    ).stdout
    assert re.findall(r"^  make ([a-z]+) ", listed, re.M) == targets
