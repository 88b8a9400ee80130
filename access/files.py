"""Files that are read while requests wait: plain ones alone, and only so much of them, so that none can hang or be endless."""

from __future__ import annotations

import errno
import os
import stat
from codecs import BOM_UTF8
from pathlib import Path
from typing import BinaryIO

LARGEST = 16 << 20
"""Bytes."""


def open_plain(path: Path, flags: int = os.O_RDONLY) -> BinaryIO:
    """The file at `path`; OSError when there is none, or when it is a pipe, a device or a folder.

    `flags` are those of open(2); a file that they make is its owner's alone.
    """
    # Looked at once it is open, so that nothing can take its place in between. A pipe's opening would wait for its other end.
    descriptor = os.open(path, flags | os.O_NONBLOCK | os.O_NOCTTY, 0o600)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(errno.EINVAL, "it is no plain file")
    return os.fdopen(descriptor, "r+b" if flags & os.O_RDWR else "rb")


def content(file: BinaryIO) -> bytes:
    """What is in `file`, without the byte order mark that some editors put before a text; OSError when it is more than LARGEST."""
    found = file.read(LARGEST + 1)
    if len(found) > LARGEST:
        raise OSError(errno.EFBIG, f"it is larger than {LARGEST >> 20} MiB")
    return found.removeprefix(BOM_UTF8)


def version(path: Path) -> tuple[int, ...]:
    """What changes when the file at `path` is written, replaced, or re-linked (as mounted secrets are); empty without one."""
    try:
        status = path.stat()
    except OSError:
        return ()
    return (status.st_mtime_ns, status.st_ctime_ns, status.st_size, status.st_ino)
