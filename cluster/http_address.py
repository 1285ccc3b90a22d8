"""Where the HTTP front listens, and what an address asks for."""

from __future__ import annotations

import errno
import ipaddress
import socket

from realm_core.errors import UsageError

TOKEN_VARIABLE = "REALM_HTTP_TOKEN"  # noqa: S105 - the name of a variable of the environment


def parse_address(address: str) -> tuple[str, int]:
    """Host and port of `127.0.0.1:8080` or `[::1]:8080`; raises `UsageError` for what is neither."""
    host, _, port = address.rpartition(":")
    if not host or not port.isdecimal() or int(port) > 65535:
        raise UsageError(
            where=f"--http {address}",
            found="no host and port",
            expected="such as 127.0.0.1:8080",
            action="Correct the address.",
        )
    return host.strip("[]"), int(port)


def require_token(address: str, token: str | None) -> None:
    """Raises `UsageError` for an address that other machines reach and no token."""
    host, _ = parse_address(address)
    if not is_loopback(host) and not token:
        raise UsageError(
            where=f"--http {address}",
            found="an address that other machines reach, and no token",
            expected=f"{TOKEN_VARIABLE} in the environment",
            action="Set it, or listen on 127.0.0.1.",
        )


def is_loopback(host: str) -> bool:
    """True for addresses that only this machine reaches."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def listen_on(address: str) -> socket.socket:
    """A listening socket.

    Raises:
        UsageError: the address is malformed, not this machine's, or its port is in use.
    """
    host, port = parse_address(address)
    try:
        family, *_, place = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        return socket.create_server(place[:2], family=family, backlog=512)
    except OSError as error:
        in_use = error.errno == errno.EADDRINUSE
        raise UsageError(
            where=f"--http {address}",
            found="a port that is in use" if in_use else str(error),
            expected="a free port of this machine",
            action="Choose another port, or stop the process that listens there.",
        ) from error


def url_of(listening: socket.socket) -> str:
    """Where a listening socket is reached."""
    host, port = listening.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
