"""A number that a process and all that it forks share: what one worker met, for another one's answer.

It is anonymous memory, taken when it is made, and so depends on no file system. `multiprocessing.Value` maps a file in
/dev/shm or in the folder for temporary files: when there is no room, a page that is touched ends the process with SIGBUS.
"""

from __future__ import annotations

import mmap
from ctypes import c_double


def shared_number() -> c_double:
    """Such a number, its `value` 0.0, to be made before the processes that share it are forked.

    Of several writers at once the last one wins: eight aligned bytes change in one step.
    """
    number = c_double.from_buffer(mmap.mmap(-1, 8))
    number.value = 0.0  # touches the page, so that no later touch needs memory
    return number
