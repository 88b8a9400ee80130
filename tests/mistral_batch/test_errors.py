"""What the errors say, where more than a text is given on."""

from __future__ import annotations

import re
import sys
import tomllib

import pytest

from mistral_batch import errors
from tests.support.processes import ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


@pytest.mark.parametrize("extra", ["tables", "tokens", "prices"])
@pytest.mark.parametrize("installer", ["pip", ""])
def test_a_missing_extra_is_named_with_the_command_that_installs_what_it_has(
    extra: str, installer: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(errors, "find_spec", lambda _: installer or None)
    said = str(errors.MissingExtra("This", extra))
    package = re.split(r"[><=]", PROJECT["optional-dependencies"][extra][0])[0]
    assert repr(extra) in said and said.endswith(f" {package}")
    assert sys.executable in said and ("-m pip" in said) == bool(installer)
