# Copyright (c) the monai_jsma contributors.
# SPDX-License-Identifier: Apache-2.0
"""What ``doctor`` asks of a library, each in a process of its own: ``python -m monai_jsma.cli.probes NAME ...``.

The answer is one line of JSON. A fault is an exception, a crash or silence, which the asking process tells apart.
Pixels are ``uint8`` of shape ``(height, width, 3)``.
"""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path
from typing import Any

__all__ = ["gpu", "load", "main", "read", "write"]

_SIZE, _TILE = 128, 64


def load(module: str) -> str:
    """Import a module; torchvision's missing operators are made up for, unless it is torchvision that is asked for."""
    if module == "timm":
        from monai_jsma.networks._torchvision import ensure_torchvision

        ensure_torchvision()
    importlib.import_module(module)
    return module


def gpu() -> dict[str, Any]:
    """What PyTorch was built for and finds."""
    import torch

    found = torch.cuda.is_available()
    if found:
        torch.ones(1, device="cuda").sum().item()  # a driver that is too old shows itself only here
    return {
        "built_for": torch.version.cuda,
        "names": [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())] if found else [],
        "cudnn": torch.backends.cudnn.version() if found else None,
    }


def write(folder: str) -> list[int]:
    """Write a tiny tiled JPEG TIFF, a PNG, and the pixels that went into them."""
    import numpy as np
    import tifffile
    from PIL import Image

    rows, cols = np.mgrid[:_SIZE, :_SIZE]
    waves = [np.sin(rows / 17 + c) + np.cos(cols / (11 + c)) for c in range(3)]
    pixels = np.clip(127 + 50 * np.stack(waves, axis=-1), 0, 255).astype(np.uint8)
    options: dict[str, Any] = {"tile": (_TILE, _TILE), "compression": "jpeg", "photometric": "rgb", "metadata": None}
    tifffile.imwrite(Path(folder, "tiny.tif"), pixels, compressionargs={"level": 95}, **options)
    Image.fromarray(pixels).save(Path(folder, "tiny.png"))
    np.save(Path(folder, "written.npy"), pixels)
    return list(pixels.shape)


def read(reader: str, folder: str) -> dict[str, float]:
    """The largest and mean difference of a reader's pixels from those that were written."""
    import numpy as np

    pixels = np.asarray(_READERS[reader](folder))[..., :3].astype(int)
    difference = np.abs(pixels - np.load(Path(folder, "written.npy")))
    return {"largest": int(difference.max()), "mean": float(difference.mean())}


def _cucim(folder: str) -> Any:
    cucim = importlib.import_module("cucim")
    return cucim.CuImage(str(Path(folder, "tiny.tif"))).read_region((0, 0), (_SIZE, _SIZE), level=0)


def _openslide(folder: str) -> Any:
    import openslide

    with openslide.OpenSlide(Path(folder, "tiny.tif")) as slide:
        return slide.read_region((0, 0), 0, (_SIZE, _SIZE))


def _tifffile(folder: str) -> Any:
    import tifffile

    return tifffile.imread(Path(folder, "tiny.tif"))


def _pil(folder: str) -> Any:
    from PIL import Image

    return Image.open(Path(folder, "tiny.png"))


_READERS = {"cucim": _cucim, "openslide": _openslide, "tifffile": _tifffile, "pil": _pil}


def main(name: str, *args: str) -> None:
    """Answer one question on standard output."""
    answers = {"load": load, "gpu": gpu, "write": write, "read": read}
    sys.stdout.write("\n" + json.dumps(answers[name](*args)) + "\n")  # type: ignore[operator]


if __name__ == "__main__":
    main(*sys.argv[1:])
