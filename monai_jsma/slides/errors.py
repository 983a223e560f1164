# Copyright (c) the monai_jsma contributors.
# SPDX-License-Identifier: Apache-2.0
"""The error of an image or slide that cannot be read, and the way out of damage."""

from __future__ import annotations

__all__ = ["COPY_AGAIN", "SlideError"]

COPY_AGAIN = "copy the file again from its source."  # the way out of damage


class SlideError(RuntimeError):
    """An image or slide that cannot be read correctly; the message begins with its path and says what to do."""
