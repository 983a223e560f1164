# Copyright (c) the monai_jsma contributors.
# SPDX-License-Identifier: Apache-2.0
"""Joint spatial and magnification based attention for very large histopathology pictures, as MONAI components.

Importing the package imports its public modules, so that bundle configurations find the components by short name after
``"imports": ["$import monai_jsma"]``.
"""

from __future__ import annotations

import sys

__version__ = "0.1.0"

# While Python locates the module of `python -m monai_jsma ...`, argv[0] is "-m": a command answers --help at once, and
# imports what it needs when it runs.
if sys.argv[:1] != ["-m"]:
    from . import (
        checkpoints,
        data,
        engines,
        handlers,
        inferers,
        losses,
        metrics,
        networks,
        predictions,
        schedulers,
        transforms,
        visualize,
    )
