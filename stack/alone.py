"""`python stack/alone.py COMMAND...`: runs a command in this folder while no other one so started runs there.

So `make run` and `make demo`, begun at once in a new checkout, install into `.venv` one after the other. Nothing but the standard
library is there yet.
"""

import fcntl
import os
import sys

if __name__ == "__main__":
    folder = os.open(".", os.O_RDONLY)
    fcntl.flock(folder, fcntl.LOCK_EX)
    os.set_inheritable(folder, True)  # the lock ends with the command
    os.execvp(sys.argv[1], sys.argv[1:])  # noqa: S606
