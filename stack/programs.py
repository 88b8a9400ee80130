"""The command `mistral-batch-gateway`, which an installed package has: each program under one name.

None of them imports another; the one that is asked for is imported here, and runs in this process.
"""

from __future__ import annotations

import argparse
import sys
from importlib import import_module

NAME = "mistral-batch-gateway"

PROGRAMS = {
    "run": ("stack.__main__", "all of it, on the sandbox when no key is set"),
    "serve": ("service.__main__", "the REST service, under gunicorn"),
    "mcp": ("mcp_bridge.__main__", "the MCP bridge, over HTTP or standard input and output"),
    "sandbox": ("sandbox.__main__", "a stand-in for Mistral's Batch and Files APIs"),
    "derive": ("openapi.derive", "the OpenAPI document of capability files"),
    "doctor": ("service.__main__", "the REST service's settings, and what is wrong with them"),
    "config": ("service.__main__", "the REST service's settings, and where they come from"),
    "token": ("service.__main__", "make a token for a caller"),
    "healthcheck": ("service.__main__", "ask the running REST service whether it is alive"),
}
"""Command -> the module whose `main` it is, what it is for."""


def main(arguments: list[str] | None = None) -> int:
    """Runs the program that the first word names, with the others; returns its exit status."""
    words = sys.argv[1:] if arguments is None else arguments
    parser = argparse.ArgumentParser(
        prog=NAME,
        description="A self-hosted gateway to Mistral's Batch Jobs and Files API: its programs, each with a --help of its own.",
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, (_, purpose) in PROGRAMS.items():
        commands.add_parser(name, help=purpose, add_help=False)
    command = parser.parse_args(words[:1]).command
    program = import_module(PROGRAMS[command][0])
    status: int
    if program.__package__ == "service":  # has several, by the same names
        status = program.main(words, NAME)
    else:
        status = program.main(words[1:], f"{NAME} {command}")
    return status
