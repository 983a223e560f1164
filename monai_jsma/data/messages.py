# Copyright (c) the monai_jsma contributors.
# SPDX-License-Identifier: Apache-2.0
"""Parts of messages."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

__all__ = ["few"]


def few(values: Iterable[Any]) -> str:
    """The first three values, and how many there are, for a message of one line."""
    values = [str(v) for v in values]
    return ", ".join(values[:3]) + (f", ... ({len(values)} in all)" if len(values) > 3 else "")
