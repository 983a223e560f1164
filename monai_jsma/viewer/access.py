# Copyright (c) the monai_jsma contributors.
# SPDX-License-Identifier: Apache-2.0
"""Who may ask: the name that the browser was told, and a token.

A page of another site may send requests to this machine, and may even have its own name lead here (DNS rebinding). Its
requests then carry that name in their ``Host``, and are refused. Where others can reach the port, each request needs a
token too: the address that is printed holds it, and a cookie then stands for it.
"""

from __future__ import annotations

import hmac
import ipaddress
import re
import secrets
import socket
from collections.abc import Sequence

__all__ = ["Access"]

_HOST = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+)(:[0-9]{1,5})?", re.ASCII)


class Access:
    """Who may ask.

    Args:
        host: name or address that the server listens at.
        needs_token: whether a token is needed even where only programs of this machine can ask.

    Attributes:
        address: the address of ``host``.
        token: the token; None if none is needed.

    Raises:
        ValueError: if there is no such host.
    """

    def __init__(self, host: str = "127.0.0.1", *, needs_token: bool = False) -> None:
        self.host = host
        self.address = _find_address(host)
        self._ip = ipaddress.ip_address(self.address)
        self.is_local = self._ip.is_loopback
        self.token: str | None = None
        if needs_token or not self.is_local:
            self.token = secrets.token_urlsafe(32)
        self._names = {"localhost"}
        if not self.is_local:
            own_names = (host, socket.gethostname(), socket.getfqdn())
            self._names.update(name.lower() for name in own_names)

    @property
    def name(self) -> str:
        """The name to write in an address of this server."""
        if self._ip.is_unspecified:
            return socket.gethostname()
        name = self.address if self.is_local else self.host
        return f"[{name}]" if ":" in name else name

    def is_known_host(self, values: Sequence[str]) -> bool:
        """Whether a request was meant for this server.

        The port is not looked at: a tunnel may lead from another one to here.

        Args:
            values: the values of its ``Host`` headers; there must be one.
        """
        if len(values) != 1:
            return False
        match = _HOST.fullmatch(values[0].strip())
        if match is None:
            return False
        name = match[1].strip("[]").lower()
        try:
            address = ipaddress.ip_address(name)
        except ValueError:
            return name in self._names
        # For an attack a name must lead here from elsewhere; an address is what it says.
        return address.is_loopback or not self.is_local

    def is_token(self, text: str) -> bool:
        """Whether a text is the token; the time that this takes does not tell how much of it is right."""
        if self.token is None:
            return True
        given = text.encode("utf-8", "surrogateescape")
        return hmac.compare_digest(given, self.token.encode())


def _find_address(host: str) -> str:
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        raise ValueError(f"--host {host}: there is no such host; name an address of this machine.") from error
    address = found[0][4][0]
    return str(address).partition("%")[0]
