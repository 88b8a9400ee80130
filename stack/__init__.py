"""Everything at once on one machine, for a newcomer's first minutes and for development.

`python -m stack` runs the processes, `python -m stack demo` shows two jobs' lives. It talks to the processes over HTTP
only; production starts each of them by itself.

Beside it, `programs` is the command of an installed package, which starts any of them.
"""
