# Copyright (c) the monai_jsma contributors.
# SPDX-License-Identifier: Apache-2.0
"""A good datalist of small slides, to be spoilt."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

from PIL import Image
from slide_files import levels_of, picture, write_pyramid

from monai_jsma._io import file_sha256
from monai_jsma.datalists.verify import STAGES, verify_datalist

__all__ = ["Case", "cut", "write_files"]


def write_files(folder: Path) -> Path:
    """Four different slides of 700 x 900 pixels, 0.5 um/px, two levels; and a PNG without spacing."""
    for i, name in enumerate("abcd"):
        levels = levels_of(picture(700, 900, i), [2])
        write_pyramid(folder / f"{name}.tif", levels, tile=(128, 128), compression="jpeg", mpp=0.5)
    Image.fromarray(picture(80, 90)).save(folder / "e.png")
    return folder


class Case:
    """A good datalist of these slides in a folder of its own, to be spoilt."""

    def __init__(self, files: Path, folder: Path) -> None:
        shutil.copytree(files, folder)
        self.folder = folder
        self.content: dict[str, Any] = {
            "labels": {"0": "benign", "1": "tumor"},
            "training": [
                self.item("a.tif", label=0, patient="P1"),
                self.item("b.tif", label=1, patient="P2", location=[100, 200], size=[512, 600]),
                self.item("b.tif", label=1, patient="P2", location=[140, 140], size=[50, 60]),
            ],
            "validation": [self.item("c.tif", label=1, patient="P3")],
            "test": [self.item("d.tif", patient="P4"), self.item("e.png", patient="P5", mpp=0.5)],
        }

    def item(self, image: str, **keys: Any) -> dict[str, Any]:
        return {"image": image, "sha256": file_sha256(self.folder / image), **keys}

    def run(self, **options: Any) -> list[tuple[str, str]]:
        """(item, stage) of all faults; none of them is without a reason that names a file or an item."""
        path = self.folder / "datalist.json"
        path.write_text(json.dumps(self.content))
        self.faults, _ = verify_datalist(path, **options)
        assert all(fault.reason and fault.stage in STAGES for fault in self.faults)
        return [(fault.item, fault.stage) for fault in self.faults]


def cut(path: Path) -> None:
    """Lose the last bytes."""
    os.truncate(path, path.stat().st_size - 3000)
