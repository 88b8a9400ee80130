"""Refuses to listen beyond this machine when anybody who reaches the port may call."""

from __future__ import annotations

from ipaddress import IPv6Address, ip_address

from .refusals import AccessError

ANY = frozenset({"", "*", "0.0.0.0", "::"})  # noqa: S104 - names what is refused
"""Addresses that mean every interface, so that none of them names this host."""


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


def check_binding(host: str, *, protected: bool, setting: str, fix: str) -> None:
    """Raises AccessError when `host` is open to others and callers are not `protected` by tokens.

    `setting` names what chose the address, `fix` the variable that protects. A Unix socket, which a path or
    `unix:` names, is open to whom its file's permissions say.
    """
    if protected or host.startswith(("unix:", "/")) or is_loopback(host):
        return
    raise AccessError(
        f"{setting} {host or 'of every interface'} can be reached from other machines, and anybody there could call."
        f" Make a token (python -m access.token NAME --scope SCOPE --file FILE) and set {fix}=FILE,"
        " or listen on 127.0.0.1."
    )
