"""``HOST:PORT`` as a user writes it, and who can reach it."""

from __future__ import annotations

import ipaddress


def parse_address(text: str) -> tuple[str, int]:
    """Host and port; an IPv6 host keeps its brackets.

    Raises:
        ValueError: it is no address.
    """
    host, colon, port = text.rpartition(":")
    if not (colon and host and port.isascii() and port.isdigit() and int(port) < 2**16):
        raise ValueError(f"an address is HOST:PORT with a port from 0 to 65535, not {text!r}")
    return host, int(port)


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach a server that listens there. A name other than localhost counts as public."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def require_loopback(address: str) -> None:
    """Refuse to serve other machines without encryption; not to be asked where the user said ``--insecure``.

    Raises:
        ValueError: others can reach ``HOST:PORT``, or it is no address.
    """
    if not is_loopback(parse_address(address)[0]):
        raise ValueError(
            f"{address} can be reached from other machines, and nothing on the way would be encrypted; "
            "listen on 127.0.0.1, or say --insecure"
        )
