"""Where a program listens: ``host:port`` as text, and whether other machines could reach it there."""

from __future__ import annotations

import ipaddress


def split_address(text: str) -> tuple[str, int]:
    """``127.0.0.1:8500`` or ``[::1]:8500`` as host and port.

    Raises:
        ValueError: the text is no such address.
    """
    host, colon, port = text.rpartition(":")
    if not (colon and host and port.isascii() and port.isdigit() and int(port) < 2**16):
        raise ValueError(f"an address is HOST:PORT with a port from 0 to 65535, not {text!r}")
    return host, int(port)


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach it; a name other than localhost is taken for public."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False
