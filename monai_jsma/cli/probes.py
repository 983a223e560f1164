# Copyright (c) the monai_jsma contributors.
# SPDX-License-Identifier: Apache-2.0
"""What ``doctor`` tests in a process of its own: ``python -m monai_jsma.cli.probes NAME ARGUMENT...``.

The answer is one line of JSON. A fault is an exception, a crash or no answer, which the asking process tells apart.
Pixels are ``uint8`` of shape ``(height, width, 3)``.
"""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path
from typing import Any

__all__ = ["load", "main", "query_early_ends", "query_gpu", "read", "write"]

_SIZE = 128
_TILE = 64


def load(module: str) -> str:
    """Import a module. For timm the operators that torchvision may lack are provided first."""
    if module == "timm":
        from monai_jsma.networks._torchvision import ensure_torchvision

        ensure_torchvision()
    importlib.import_module(module)
    return module


def query_gpu() -> dict[str, Any]:
    """The CUDA version that PyTorch is built for, the names of the GPUs that it can use, and the version of cuDNN."""
    import torch

    if not torch.cuda.is_available():
        return {"built_for": torch.version.cuda, "names": [], "cudnn": None}
    torch.ones(1, device="cuda").sum().item()  # a driver that is too old fails only here
    return {
        "built_for": torch.version.cuda,
        "names": [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())],
        "cudnn": torch.backends.cudnn.version(),
    }


def query_early_ends(*readers: str) -> dict[str, str]:
    """Which of these readers see every JPEG tile that ends early, in a line each."""
    from monai_jsma.slides.early_ends import describe_early_ends

    return {reader: describe_early_ends(reader) for reader in readers}


def write(folder: str) -> list[int]:
    """Write a tiny tiled JPEG TIFF, a PNG, and the pixels that went into them. Returns the pixels' shape."""
    import numpy as np
    import tifffile
    from PIL import Image

    rows, cols = np.mgrid[:_SIZE, :_SIZE]
    channels = [np.sin(rows / 17 + c) + np.cos(cols / (11 + c)) for c in range(3)]
    waves = np.stack(channels, axis=-1)
    pixels = np.clip(127 + 50 * waves, 0, 255).astype(np.uint8)

    tifffile.imwrite(
        Path(folder, "tiny.tif"),
        pixels,
        tile=(_TILE, _TILE),
        compression="jpeg",
        compressionargs={"level": 95},
        photometric="rgb",
        metadata=None,
    )
    Image.fromarray(pixels).save(Path(folder, "tiny.png"))
    np.save(Path(folder, "written.npy"), pixels)
    return list(pixels.shape)


def read(reader: str, folder: str) -> dict[str, float]:
    """The largest and the mean difference of a reader's pixels from those that were written."""
    import numpy as np

    pixels = np.asarray(_READERS[reader](folder))[..., :3].astype(int)
    written = np.load(Path(folder, "written.npy"))
    difference = np.abs(pixels - written)
    return {"largest": int(difference.max()), "mean": float(difference.mean())}


def _read_cucim(folder: str) -> Any:
    cucim = importlib.import_module("cucim")
    slide = cucim.CuImage(str(Path(folder, "tiny.tif")))
    return slide.read_region((0, 0), (_SIZE, _SIZE), level=0)


def _read_openslide(folder: str) -> Any:
    import openslide

    with openslide.OpenSlide(Path(folder, "tiny.tif")) as slide:
        return slide.read_region((0, 0), 0, (_SIZE, _SIZE))


def _read_tifffile(folder: str) -> Any:
    import tifffile

    return tifffile.imread(Path(folder, "tiny.tif"))


def _read_pil(folder: str) -> Any:
    from PIL import Image

    return Image.open(Path(folder, "tiny.png"))


_READERS = {"cucim": _read_cucim, "openslide": _read_openslide, "tifffile": _read_tifffile, "pil": _read_pil}
_PROBES: dict[str, Any] = {
    "load": load,
    "gpu": query_gpu,
    "write": write,
    "read": read,
    "early_ends": query_early_ends,
}


def main(name: str, *args: str) -> None:
    """Run one probe and print its answer."""
    answer = _PROBES[name](*args)
    sys.stdout.write(f"\n{json.dumps(answer)}\n")  # the library may have printed something without a line end


if __name__ == "__main__":
    main(*sys.argv[1:])
