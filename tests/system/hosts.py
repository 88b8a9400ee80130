"""Hosts of their own on this machine: network namespaces, each with an address on one bridge. Not a test module."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
import trustme

from access.token_file import make_token
from tests.support.gateway import gateway_process
from tests.support.processes import Sandbox, free_port, start, stop
from tests.support.tools_available import needed
from tests.system.front import Front

NUMBER = next(
    number % 250
    for number in range(os.getpid(), os.getpid() + 250)
    # Of another run under way, or of one that was killed.
    if not [
        *Path("/run/netns").glob(f"gateway-{number % 250}-*"),
        *Path("/sys/class/net").glob(f"gw{number % 250}-*"),
        *Path("/sys/class/net").glob(f"gwbr{number % 250}"),
    ]
)
NETWORK = f"198.18.{NUMBER}"  # RFC 2544: for tests of networks, nobody's
MIDDLE = f"{NETWORK}.1"
"""This machine's own address on the bridge: where Redis and Mistral's stand-in are."""

_UPSTREAM = """
daemon off;
worker_processes 1;
pid {folder}/upstream.pid;
error_log {folder}/upstream.log;
events {{}}
http {{
    access_log off;
    client_body_temp_path {folder}/upstream-body;
    proxy_temp_path {folder}/upstream-proxy;
    server {{
        listen {address} ssl;
        ssl_certificate {folder}/upstream.pem;
        ssl_certificate_key {folder}/upstream.key;
        location / {{ proxy_pass {sandbox}; proxy_http_version 1.1; proxy_set_header Connection ""; }}
    }}
}}
"""


def ip(*words: str) -> None:
    """Runs the command ip; skips the test when this machine may not do that."""
    done = subprocess.run(
        [needed("ip", "apt-get install iproute2"), *words],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        pytest.skip(f"no network namespaces here: ip {' '.join(words)}: {done.stderr.strip()}")


class Host:
    """A network namespace whose one link can be cut."""

    def __init__(self, place: int) -> None:
        self.name = f"gateway-{NUMBER}-{place}"
        self.link = f"gw{NUMBER}-{place}"
        self.address = f"{NETWORK}.{place}"

    def make(self, bridge: str) -> None:
        """Makes it, with its link plugged into the bridge."""
        ip("netns", "add", self.name)
        ip("link", "add", self.link, "type", "veth", "peer", "name", "eth0", "netns", self.name)
        ip("link", "set", self.link, "master", bridge, "up")
        ip("-n", self.name, "addr", "add", f"{self.address}/24", "dev", "eth0")
        ip("-n", self.name, "link", "set", "eth0", "up")
        ip("-n", self.name, "link", "set", "lo", "up")

    def remove(self) -> None:
        """Removes it with its link, whatever of it there is."""
        # The link by itself: with its namespace it would go a moment later, and the next host is to have its name.
        for words in (("link", "del", self.link), ("netns", "del", self.name)):
            subprocess.run([needed("ip"), *words], capture_output=True, check=False)

    def cut(self) -> None:
        """Pulls the plug: nothing comes through any more, and nobody is told."""
        ip("link", "set", self.link, "down")

    def plug_in(self) -> None:
        """Undoes `cut`."""
        ip("link", "set", self.link, "up")


@contextmanager
def hosts(*places: int) -> Iterator[list[Host]]:
    """Hosts at addresses of the bridge, from 2 on."""
    bridge = f"gwbr{NUMBER}"
    with ExitStack() as made:
        ip("link", "add", bridge, "type", "bridge")
        made.callback(ip, "link", "del", bridge)
        ip("addr", "add", f"{MIDDLE}/24", "dev", bridge)
        ip("link", "set", bridge, "up")
        machines = [Host(place) for place in places]
        for machine in machines:
            made.callback(machine.remove)
            machine.make(bridge)
        yield machines


@contextmanager
def redis(folder: Path) -> Iterator[str]:
    """Redis in the middle: its URL."""
    port = free_port()
    command = [needed("redis-server", "apt-get install redis-server"), "--port", str(port)]
    options = {"bind": MIDDLE, "requirepass": "secret", "save": "", "dir": str(folder)}
    process = start(
        command + [word for name, value in options.items() for word in (f"--{name}", value)], {}
    )
    try:
        yield f"redis://:secret@{MIDDLE}:{port}/0"
    finally:
        stop(process)


@contextmanager
def mistral(sandbox: Sandbox, folder: Path) -> Iterator[tuple[str, Path]]:
    """The sandbox over TLS in the middle: its base URL, and the file that its certificate is checked with."""
    authority = trustme.CA()
    leaf = authority.issue_cert(MIDDLE)
    leaf.private_key_pem.write_to_path(folder / "upstream.key")
    for part in leaf.cert_chain_pems:
        part.write_to_path(folder / "upstream.pem", append=True)
    authority.cert_pem.write_to_path(folder / "authority.pem")
    address = f"{MIDDLE}:{free_port()}"
    configuration = folder / "upstream.conf"
    configuration.write_text(_UPSTREAM.format(folder=folder, address=address, sandbox=sandbox.url))
    nginx = needed("nginx", "apt-get install nginx")
    process = subprocess.Popen(
        [nginx, "-c", str(configuration), "-e", str(folder / "upstream.log")]
    )
    try:
        yield f"https://{address}/v1", folder / "authority.pem"
    finally:
        process.terminate()
        process.wait(10)


class Token:
    """A caller's token and the file that lets it in."""

    def __init__(self, folder: Path) -> None:
        self.file = folder / "tokens"
        self.text, _ = make_token("caller", ["jobs:read", "jobs:write"], file=self.file)

    def give(self, nginx: Front) -> None:
        """Has the client of `nginx` send it."""
        nginx.session.headers["Authorization"] = f"Bearer {self.text}"


@contextmanager
def gateway_on(
    host: Host, upstream: str, *, resolver: Path | None = None, **settings: object
) -> Iterator[str]:
    """A REST service on a host: its address with the port. `resolver`: a file in the place of /etc/resolv.conf."""
    within = [needed("ip"), "netns", "exec", host.name]
    if resolver:  # `ip netns exec` gives each command mounts of its own
        script = f'mount --bind {resolver} /etc/resolv.conf && exec "$@"'
        within += ["sh", "-c", script, "sh"]
    with gateway_process(upstream, within=within, host=host.address, **settings) as gateway:
        yield gateway.address
        gateway.kill()  # rather than wait for what it waits for
