# Copyright (c) the monai_jsma contributors.
# SPDX-License-Identifier: Apache-2.0
"""Weights from the hub where it can be reached; where it cannot, what its cache has, or an error within seconds.

Left to itself, the hub's client tries each file six times with pauses between: close to a minute for one model.
"""

from __future__ import annotations

import logging
import socket
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

__all__ = ["fetch_file", "find_cached_file", "find_hub_fault", "hub_within_seconds"]

_CONNECT_SECONDS = 5.0  # for a connection only: a hub that answers slowly has its usual time

_log = logging.getLogger(__name__)


def find_hub_fault() -> str | None:
    """Why the hub, or the proxy on the way to it, takes no connection; None if it does."""
    from huggingface_hub import constants

    address = urlsplit(constants.ENDPOINT)
    proxy = getproxies().get(address.scheme)
    if proxy and not proxy_bypass(address.hostname or ""):
        address = urlsplit(proxy if "://" in proxy else f"http://{proxy}")
    port = address.port or (443 if address.scheme == "https" else 80)
    try:
        socket.create_connection((address.hostname or "", port), timeout=_CONNECT_SECONDS).close()
    except OSError as error:
        return f"{address.hostname} cannot be reached ({error})"
    return None


@contextmanager
def hub_within_seconds() -> Iterator[None]:
    """Inside, an unreachable hub is not tried: its client serves what its cache has, and fails at once otherwise.

    Raises:
        ConnectionError: for a file that is not in the cache, with the reason why the hub was not asked.
    """
    from huggingface_hub import constants
    from huggingface_hub.errors import LocalEntryNotFoundError, OfflineModeIsEnabled

    fault = None if constants.HF_HUB_OFFLINE else find_hub_fault()
    if fault is None:
        yield
        return
    _log.warning("%s: weights can come from the cache only.", fault)
    constants.HF_HUB_OFFLINE = True  # of this process only, and until the end of this block
    try:
        yield
    except (LocalEntryNotFoundError, OfflineModeIsEnabled) as error:
        raise ConnectionError(f"{fault}, and the cache in {constants.HF_HUB_CACHE} has no such file") from error
    finally:
        constants.HF_HUB_OFFLINE = False


def find_cached_file(repository: str, names: Sequence[str]) -> Path | None:
    """The first of some files of a repository that the hub's cache on this machine has; None if it has none.

    The hub is not asked.
    """
    from huggingface_hub import try_to_load_from_cache

    for name in names:
        path = try_to_load_from_cache(repository, name)
        if isinstance(path, str):
            return Path(path)
    return None


def fetch_file(repository: str, names: Sequence[str]) -> Path:
    """The first of some files that a repository has, from the cache or from the hub.

    Raises:
        OSError: if it cannot be had: the hub cannot be reached, the repository is gated or has none of them.
    """
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import RemoteEntryNotFoundError

    cached = find_cached_file(repository, names)
    if cached is not None:
        return cached
    with hub_within_seconds():
        for name in names:
            try:
                return Path(hf_hub_download(repository, name))
            except RemoteEntryNotFoundError:
                continue  # it may have another one
    raise FileNotFoundError(f"{repository} has none of {', '.join(names)}")
