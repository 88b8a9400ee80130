"""Reads a `.env` file, as editors on any system write it. Only the stack does."""

from __future__ import annotations

import codecs
import re
from pathlib import Path

from access.files import content, open_plain
from environment import SettingsError

_LINE = re.compile(
    r"""(?:export\s+)?([A-Za-z_]\w*)\s*="""
    r"""(?:\s*"([^"]*)"|\s*'([^']*)'|((?!\s*["'])(?:\S|\s(?!\#))*))\s*(?:(?<=\s)\#.*)?"""
)
_OTHER_ENCODINGS = {
    codecs.BOM_UTF32_LE: "UTF-32",
    codecs.BOM_UTF32_BE: "UTF-32",
    codecs.BOM_UTF16_LE: "UTF-16",
    codecs.BOM_UTF16_BE: "UTF-16",
}


def read_dotenv(path: Path) -> dict[str, str]:
    """The `NAME=value` lines of the file `path`; empty when there is no such file. SettingsError when it cannot be read.

    Quotes, `export` and `#` comments are understood as usual.
    """
    values = {}
    for number, line in enumerate(map(str.strip, _text(path).splitlines()), 1):
        if line and not line.startswith("#"):
            found = _LINE.fullmatch(line)
            if not found:
                raise SettingsError(f"{path.name}, line {number}: not of the form NAME=value")
            values[found[1]] = found[2] or found[3] or (found[4] or "").strip()
    return values


def _text(path: Path) -> str:
    try:
        with open_plain(path) as file:
            found = content(file)
    except FileNotFoundError:
        return ""
    except OSError as error:
        raise SettingsError(f"{path.name} cannot be read: {error.strerror}") from error
    for mark, encoding in _OTHER_ENCODINGS.items():
        if found.startswith(mark):
            raise SettingsError(f"{path.name} is in {encoding}; save it in UTF-8")
    try:
        text = found.decode()
    except UnicodeDecodeError as error:
        line = found.count(b"\n", 0, error.start) + 1
        raise SettingsError(f"{path.name}, line {line}: not in UTF-8; save it in UTF-8") from error
    if "\0" in text:  # UTF-16 without its mark, most likely
        raise SettingsError(f"{path.name} has zero bytes, as in UTF-16; save it in UTF-8")
    return text
