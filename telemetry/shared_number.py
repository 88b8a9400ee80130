"""A number that a process and all that it forks share: what one worker met, for another one's answer.

It is anonymous memory, taken when it is made, and so depends on no file system. `multiprocessing.Value` maps a file in
/dev/shm or in the folder for temporary files: when there is no room, a page that is touched ends the process with SIGBUS.
"""

from __future__ import annotations

import mmap


class SharedNumber:
    """0.0 at first. Of several writers at once the last one wins: eight aligned bytes change in one step."""

    def __init__(self) -> None:
        """To be made before the processes that share it are forked."""
        self._cell = memoryview(mmap.mmap(-1, 8)).cast("d")
        self.value = 0.0  # touches the page, so that no later touch needs memory

    @property
    def value(self) -> float:
        """What was written last, by whichever process."""
        return self._cell[0]

    @value.setter
    def value(self, number: float) -> None:
        self._cell[0] = number
