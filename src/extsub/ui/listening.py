"""Where the page is served: the address is taken before anything is loaded."""

from __future__ import annotations

import errno
import ipaddress
import os
import socket

from extsub.errors import ExtSubError
from extsub.escaping import brief


def listen(host: str, port: int) -> socket.socket:
    """Take an address, so that nobody else does while the model is loaded.

    Args:
        host: 127.0.0.1 is heard on this machine alone.
        port: 0 takes a free one.

    Raises:
        ExtSubError: another program has it, or there is no such address here.
    """
    if not 0 <= port <= 65535:
        raise ExtSubError(f"--port {port}: expected 0 to 65535")
    try:
        family, *_, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        return socket.create_server(address[:2], family=family)
    except socket.gaierror as error:
        raise ExtSubError(f"--host {brief(host)}: {brief(error.strerror).lower()}") from error
    except (OSError, UnicodeError) as error:
        code = error.errno if isinstance(error, OSError) else None
        taken = code == errno.EADDRINUSE
        reason = os.strerror(code).lower() if code else "not a name"
        way = "end the program that has it, or choose another --port" if taken else "choose another"
        raise ExtSubError(f"--host {brief(host)} --port {port}: {reason}: {way}") from error


def address_of(listener: socket.socket) -> str:
    """The address to type into a browser."""
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def hosts_of(listener: socket.socket) -> list[str]:
    """The names under which browsers may ask for the page; ``*`` is any.

    On this machine alone it is asked for as this machine: a page from elsewhere, whose own name was made to lead here
    (DNS rebinding), is not answered.
    """
    host = listener.getsockname()[0]
    if not ipaddress.ip_address(host).is_loopback:
        return ["*"]
    return ["localhost", "127.0.0.1", "::1", "[::1]", host]
