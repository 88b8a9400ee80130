"""`python -m tests.stack.light` is `python -m stack` with processes that start in a moment and do nothing: for how they start and end.

What make gives to Python may follow. They are ready at once, and to a call they answer 404, or nothing when LIGHT_HANGS is set. Not a test module.
"""

from __future__ import annotations

import os
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

PORTS = {"sandbox": "SANDBOX_PORT", "rest": "GATEWAY_PORT", "mcp": "BRIDGE_PORT"}


class Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()

    def do_POST(self) -> None:
        if os.environ.get("LIGHT_HANGS"):
            threading.Event().wait()
        self.send_response(404)
        self.end_headers()


if __name__ == "__main__":
    if "serve" in sys.argv:
        port = int(os.environ[PORTS[sys.argv[2]]])
        ThreadingHTTPServer(("127.0.0.1", port), Handler).serve_forever()
    else:
        from stack.__main__ import main
        from stack.processes import COMMANDS

        for name, words in COMMANDS.items():
            COMMANDS[name] = ("-m", "tests.stack.light", "serve", name, *words[1:])
        sys.exit(main([word for word in sys.argv[1:] if word not in ("-m", "stack")]))
