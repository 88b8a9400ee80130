"""The benchmark: the gateway and its alternatives, measured side by side on the same work and the same fake upstream.

`python -m bench` (or `make bench`) runs everything in `rows`; `peers/` are the alternatives, which run in environments of
their own. What counts is ratios within one run, and CPU time before rates: rates depend on who else uses the machine.
"""
