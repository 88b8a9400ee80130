"""Refuses addresses beyond this machine while whoever reaches the port may call, and addresses that cannot be had."""

from __future__ import annotations

import errno
import socket
import sys
from collections.abc import Iterable
from ipaddress import IPv6Address, ip_address
from typing import Any

from environment import SettingsError

ANY = frozenset({"", "*", "0.0.0.0", "::"})  # noqa: S104 - names what is refused
"""Addresses that mean every interface, so that none of them names this host."""
_SOCKETS = ("unix:", "/")
"""How the path of a Unix socket begins."""


def is_loopback(host: str) -> bool:
    """True when only this machine can connect to `host`: a loopback address, or the name localhost.

    Other names are not: what they resolve to is somebody else's to change.
    """
    try:
        address = ip_address(host.strip("[]").partition("%")[0])
    except ValueError:
        return host.lower() == "localhost"
    if isinstance(address, IPv6Address) and address.ipv4_mapped:
        address = address.ipv4_mapped
    return address.is_loopback


def check(host: str, *, protected: bool, chosen_by: str, prefix: str) -> None:
    """Raises SettingsError when `host` is open to others and callers are not `protected` by tokens.

    `chosen_by` says what chose the address; `prefix` begins the settings' variables. A Unix socket, which a path or
    `unix:` names, is open to whom its file's permissions say.
    """
    if protected or host.startswith(_SOCKETS) or is_loopback(host):
        return
    raise SettingsError(
        f"{chosen_by} {host or 'of every interface'} can be reached from other machines, and anybody there could call."
        f" Make a token ({sys.executable} -m service token NAME --scope SCOPE --file FILE) and set"
        f" {prefix}TOKENS_FILE=FILE, or listen on 127.0.0.1"
    )


def check_sockets(sockets: Iterable[Any], *, protected: bool, prefix: str) -> None:
    """As `check`, for sockets that listen already, whoever chose their addresses: gunicorn's --bind, or systemd."""
    for each in sockets:
        address = each.getsockname()
        if isinstance(address, tuple):  # others are paths of Unix sockets
            check(address[0], protected=protected, chosen_by="the address", prefix=prefix)


def check_free(host: str, port: int, *, prefix: str) -> None:
    """Raises SettingsError when this process cannot listen on `port` of `host`; `prefix` as for `check`."""
    if port > 65535:
        raise SettingsError(f"{prefix}PORT must be at most 65535")
    address = f"{in_brackets(host)}:{port}"
    try:
        with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
            # As servers do: a port that only waits out an earlier process's connections is free.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((host.strip("[]"), port))
    except (OSError, UnicodeError) as error:
        raise SettingsError(
            {
                errno.EADDRINUSE: f"{address} is in use by another process; end it, or set {prefix}PORT to another port",
                errno.EACCES: f"{address}: this user may not listen there; set {prefix}PORT to a port above 1023",
                errno.EADDRNOTAVAIL: f"{address}: this machine has no such address; set {prefix}HOST to one that it has",
            }.get(
                getattr(error, "errno", None) or 0,
                f"{address} cannot be listened on ({error}); set {prefix}HOST to an address of this machine",
            )
        ) from error


def names(host: str) -> tuple[str, ...]:
    """What a Host header calls a server that listens on `host`: nothing in particular when that is every interface."""
    if host in ANY or host.startswith(_SOCKETS):
        return ()
    return (in_brackets(host),)


def in_brackets(host: str) -> str:
    """`host` as it is written before a port: an IPv6 address in brackets (RFC 3986 section 3.2.2), others as they are."""
    return f"[{host.strip('[]')}]" if ":" in host and not host.startswith(_SOCKETS) else host
