# Copyright (c) the monai_jsma contributors.
# SPDX-License-Identifier: Apache-2.0
"""Viewers of small slides, and requests to them that are sent byte by byte, as no browser would."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from http.client import HTTPConnection
from pathlib import Path
from typing import NamedTuple

from record_cases import pyramid_of, record_of
from slide_files import levels_of, picture, write_pyramid

from monai_jsma.predictions.records import PredictionRecord
from monai_jsma.viewer import Access, Viewer, ViewerServer


class Response(NamedTuple):
    """An answer: its status, its headers and its content."""

    status: int
    headers: Mapping[str, str]
    content: bytes

    @property
    def text(self) -> str:
        return self.content.decode()


def make_slide(folder: Path, name: str = "a.tif", seed: int = 0) -> str:
    """A pyramid of 600 x 900 pixels."""
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    return write_pyramid(path, levels_of(picture(600, 900, seed), [2, 4]), compression="deflate")


def make_records(path: str | Path) -> list[PredictionRecord]:
    """All of a slide, right; and a region of it, wrong."""
    whole = record_of(pyramid_of(path, patch_size=150), {0: 0.25, 7: 0.75}, label=1)
    region = record_of(pyramid_of(path, patch_size=60, origin=(90, 120), size=(240, 360)), {1: 0.5, 9: 0.5}, label=0)
    return [whole, region]


@contextmanager
def serve(viewer: Viewer, access: Access | None = None) -> Iterator[ViewerServer]:
    """A running server."""
    with ViewerServer(viewer, access or Access()) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


def ask(server: ViewerServer, path: str, method: str = "GET", **headers: str) -> Response:
    """An answer to a request with a method and headers of choice; ``Host`` is right unless it is given."""
    connection = HTTPConnection("127.0.0.1", server.server_port, timeout=30)
    connection.putrequest(method, path, skip_host=True, skip_accept_encoding=True)
    for name, value in {"Host": f"127.0.0.1:{server.server_port}", **headers}.items():
        connection.putheader(name, value)
    connection.endheaders()
    response = connection.getresponse()
    content = response.read()
    connection.close()
    return Response(response.status, dict(response.getheaders()), content)


def send(server: ViewerServer, request: bytes) -> bytes:
    """All that comes back for these bytes."""
    with socket.create_connection(("127.0.0.1", server.server_port), timeout=30) as connection:
        connection.sendall(request)
        connection.shutdown(socket.SHUT_WR)
        parts: Sequence[bytes] = list(iter(lambda: connection.recv(1 << 16), b""))
    return b"".join(parts)
