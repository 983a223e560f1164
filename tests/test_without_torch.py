# Copyright (c) the monai_jsma contributors.
# SPDX-License-Identifier: Apache-2.0
"""What an exported network runs with needs no PyTorch: it is tried in a process that cannot import it."""

from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
from PIL import Image
from places import ROOT

WITHOUT_TORCH = """
import sys
class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("torch", "monai", "timm", "ignite", "torchvision"):
            raise ModuleNotFoundError(f"{name} is not here")
sys.meta_path.insert(0, Refuse())
"""


def run_without_torch(program: str, *args: object) -> str:
    """Standard output of a program that can import neither torch nor MONAI."""
    command = [sys.executable, "-c", WITHOUT_TORCH + program, *map(str, args)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    process = subprocess.run(command, capture_output=True, text=True, env=environment, check=False, timeout=120)
    assert process.returncode == 0, process.stderr
    return process.stdout


def test_slides_are_read_and_tissue_is_found_without_torch(tmp_path):
    pixels = np.full((60, 80, 3), 240, np.uint8)
    pixels[20:60, 30:70] = (180, 60, 140)
    Image.fromarray(pixels).save(tmp_path / "slide.png")
    printed = run_without_torch(
        """
from monai_jsma.datalists.image_opening import open_pyramid
from monai_jsma.datalists.tissue import find_tissue
pyramid = open_pyramid(sys.argv[1], [8.0, 4.0], patch_size=10, mpp=4.0)
pyramid = pyramid.with_tissue(find_tissue(pyramid))
print(pyramid.geometry.num_cells, pyramid.tissue_cells().sum(), pyramid.read([0]).mean().round(3))
""",
        tmp_path / "slide.png",
    )
    from monai_jsma.transforms import FindTissue, LoadPyramid

    pyramid = FindTissue()(LoadPyramid([8.0, 4.0], 10)(tmp_path / "slide.png", mpp=4.0))
    expected = pyramid.geometry.num_cells, pyramid.tissue_cells().sum(), pyramid.read([0]).mean().round(3)
    assert printed.split() == [str(value) for value in expected]
