# Copyright (c) the monai_jsma contributors.
# SPDX-License-Identifier: Apache-2.0
"""The viewer over HTTP: Python's own server, which only reads, and says little.

Every answer forbids the browser to load or run anything from elsewhere, to show the page inside another one, and to
keep what may be of a patient. Requests with a body, and other methods than GET and HEAD, are refused.
"""

from __future__ import annotations

import errno
import logging
import socket
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs

from monai_jsma.viewer.access import Access
from monai_jsma.viewer.answers import Answer, Refusal, Viewer

__all__ = ["ViewerServer"]

_METHODS = "GET, HEAD"
_SECONDS = 60  # that a connection may be silent
_POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self'",
        "connect-src 'self'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
    )
)
_HEADERS = {
    "Content-Security-Policy": _POLICY,
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}

_logger = logging.getLogger(__name__)


class ViewerServer(ThreadingHTTPServer):
    """Serves a viewer until it is shut down; each connection has a thread.

    Args:
        viewer: what is answered.
        access: where to listen, and who may ask.
        port: port to listen at; 0 for any that is free.

    Raises:
        OSError: if the port is in use, or may not be used.
    """

    daemon_threads = True
    request_queue_size = 128

    def __init__(self, viewer: Viewer, access: Access, *, port: int = 0) -> None:
        self.viewer = viewer
        self.access = access
        if ":" in access.address:
            self.address_family = socket.AF_INET6
        try:
            super().__init__((access.address, port), _Handler)
        except OSError as error:
            raise _explain(error, f"{access.host}:{port}") from error

    def server_bind(self) -> None:
        """Bind without the search for a name of this machine that Python's server makes, which may take seconds."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.socket.bind(self.server_address)
        self.server_address = self.socket.getsockname()
        self.server_name = self.access.host
        self.server_port = self.server_address[1]

    @property
    def url(self) -> str:
        """The address to open in a browser; it holds the token if one is needed."""
        url = f"http://{self.access.name}:{self.server_port}/"
        if self.access.token is None:
            return url
        return f"{url}?token={self.access.token}"

    @property
    def cookie(self) -> str:
        """Name of the cookie of this server: cookies are shared by all ports of a machine."""
        return f"monai_jsma_view_{self.server_port}"

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A browser that goes away in the middle of an answer is nothing to print."""
        _logger.debug("the connection of %s ended", client_address, exc_info=True)


def _explain(error: OSError, place: str) -> OSError:
    """The error with the port, and the way out."""
    reason = {
        errno.EADDRINUSE: "the port is in use; choose another with --port, or --port 0 for any that is free",
        errno.EACCES: "the port may not be used; choose one above 1023 with --port",
        errno.EADDRNOTAVAIL: "this is no address of this machine; name one of its own with --host",
    }.get(error.errno or 0, f"cannot listen there ({error.strerror or error})")
    return OSError(f"{place}: {reason}.")


class _Handler(BaseHTTPRequestHandler):
    """One connection."""

    server: ViewerServer
    protocol_version = "HTTP/1.1"
    default_request_version = "HTTP/1.0"  # so that what is no request gets an answer with headers too
    server_version = "monai_jsma"
    sys_version = ""
    timeout = _SECONDS

    def do_GET(self) -> None:
        """Answer, or say why not."""
        try:
            answer = self._answer()
        except Refusal as refusal:
            answer = Answer(f"{refusal.reason}\n".encode("utf-8", "backslashreplace"), status=refusal.status)
        except Exception:
            _logger.exception("%s could not be answered:", self._path)
            answer = Answer(b"The answer failed; the log of the command says why.\n", status=HTTPStatus(500))
        self._send(answer)

    do_HEAD = do_GET  # noqa: N815 - as http.server calls it

    def _answer(self) -> Answer:
        if self._has_body():
            self.close_connection = True
            raise Refusal(HTTPStatus.BAD_REQUEST, "A request with a body is not answered.")
        access = self.server.access
        if not access.is_known_host(self.headers.get_all("Host", [])):
            raise Refusal(
                HTTPStatus.FORBIDDEN,
                "The request was meant for another host; use the address that the command has printed.",
            )
        path, _, query = self.path.partition("?")
        if path == "/" and query and access.token is not None and access.is_token(_find_token(query)):
            return self._grant()
        if not self._has_token():
            raise Refusal(HTTPStatus.UNAUTHORIZED, "A token is needed; use the address that the command has printed.")
        return self.server.viewer.answer(path)

    def _has_body(self) -> bool:
        lengths = self.headers.get_all("Content-Length", [])
        return "Transfer-Encoding" in self.headers or any(length.strip() != "0" for length in lengths)

    def _grant(self) -> Answer:
        """Let a cookie stand for the token from now on, so that the token is not in the address any more."""
        cookie = f"{self.server.cookie}={self.server.access.token}; HttpOnly; SameSite=Lax; Path=/"
        headers = {"Location": "/", "Set-Cookie": cookie}
        return Answer(b"", status=HTTPStatus.SEE_OTHER, headers=headers)

    def _has_token(self) -> bool:
        if self.server.access.token is None:
            return True
        for cookies in self.headers.get_all("Cookie", []):
            for cookie in cookies.split(";"):
                name, _, value = cookie.strip().partition("=")
                if name == self.server.cookie and self.server.access.is_token(value):
                    return True
        return False

    def _send(self, answer: Answer) -> None:
        self.send_response(answer.status)
        for name, value in {**_HEADERS, **answer.headers}.items():
            self.send_header(name, value)
        self.send_header("Content-Type", answer.kind)
        self.send_header("Content-Length", str(len(answer.content)))
        if self.close_connection:
            self.send_header("Connection", "close")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(answer.content)

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """Refuse what is no request, or of another method, in one line of text that repeats nothing of it."""
        self.close_connection = True
        status = HTTPStatus(code)
        text = f"{status.phrase}: {status.description}.\n"
        headers = {}
        if status == HTTPStatus.NOT_IMPLEMENTED:
            status = HTTPStatus.METHOD_NOT_ALLOWED
            headers = {"Allow": _METHODS}
            text = f"Only {_METHODS} are answered.\n"
        self._send(Answer(text.encode(), status=status, headers=headers))

    @property
    def _path(self) -> str:
        """The path that was asked for, without the token."""
        return self.path.partition("?")[0]

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing: the request line may hold the token."""


def _find_token(query: str) -> str:
    try:
        return parse_qs(query).get("token", [""])[-1]
    except ValueError:  # of too many fields
        return ""
