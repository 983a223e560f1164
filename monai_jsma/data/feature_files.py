# Copyright (c) the monai_jsma contributors.
# SPDX-License-Identifier: Apache-2.0
"""Features of patches in the files of other tools: TRIDENT's and CLAM's ``.h5``, and ``.pt`` beside a file of places.

An ``.h5`` holds ``features`` (patches, channels) and ``coords`` (patches, 2): x and y of the top-left corner of each
patch, in level-0 pixels of the file. How large a patch is stands in the attributes of ``coords``: TRIDENT's
``patch_size`` and ``patch_size_level0``, or CLAM's ``patch_size`` and ``downsample``. CLAM's file of features has none;
they are in its file of places (``patches/NAME.h5``). Here places are (row, column), as everywhere in the package.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from monai_jsma._io import replace_file

__all__ = ["PatchFeatures", "find_feature_file", "import_h5py", "read_feature_file", "write_feature_file"]

_ENDINGS = (".h5", ".pt")
_PLACES_ENDINGS = (".h5", "_patches.h5")

_Content = tuple[np.ndarray | None, np.ndarray | None, dict[str, Any]]  # of a file: features, corners, attributes


@dataclass(frozen=True, kw_only=True)
class PatchFeatures:
    """Features of the patches of one slide at one magnification.

    Attributes:
        features: float32 ``(n, channels)``.
        places: (row, column) of the top-left corner of each patch in level-0 pixels, float64 ``(n, 2)``.
        patch_size: height and width of a patch in pixels of its magnification.
        size_at_level_0: height and width of a patch in level-0 pixels.
        path: the file, for messages.
    """

    features: np.ndarray
    places: np.ndarray
    patch_size: int
    size_at_level_0: float
    path: str = ""

    @property
    def downsample(self) -> float:
        """Level-0 pixels for each pixel of a patch."""
        return self.size_at_level_0 / self.patch_size


def find_feature_file(folder: str | Path, name: str) -> Path | None:
    """The file of features of a slide, by the name of the slide without its ending; None if there is none.

    Args:
        folder: folder of the features, also CLAM's with ``h5_files`` and ``pt_files`` in it.
        name: name of the slide's file.
    """
    stem = Path(name).stem
    for place in (Path(folder), Path(folder) / "h5_files", Path(folder) / "pt_files"):
        for ending in _ENDINGS:
            file = place / f"{stem}{ending}"
            if file.is_file():
                return file
    return None


def read_feature_file(path: str | Path, coords: str | Path | None = None) -> PatchFeatures:
    """Read features of TRIDENT, of CLAM, or as :func:`write_feature_file` writes them.

    Args:
        path: the ``.h5`` or ``.pt``.
        coords: the file of places, or the folder of those of all slides, where the file of features does not say where
            its patches lie and how large they are.

    Raises:
        FileNotFoundError: if the places are missing.
        ValueError: if a file is broken, or does not say how large its patches are.
        ImportError: if h5py is not installed.
    """
    path = Path(path)
    content = _read_tensor(path) if path.suffix == ".pt" else _read_h5(path)
    features, corners, attributes = content
    if features is None:
        raise ValueError(f"{path}: it has no 'features'; name a folder of features, not of places.")
    if corners is None or not _has_size(attributes):
        places_file = _find_places_file(path, coords)
        _, other_corners, attributes = _read_h5(places_file)
        if other_corners is None:
            raise ValueError(f"{places_file}: it has no 'coords', which say where the patches of {path} lie.")
        if corners is not None and not np.array_equal(corners, other_corners):
            raise ValueError(f"{path}: its 'coords' are not those of {places_file}: they are of different runs.")
        corners = other_corners
    if features.ndim == 3 and len(features) == 1:  # some versions keep a batch of one
        features = features[0]
    if features.ndim != 2 or len(features) != len(corners):
        raise ValueError(
            f"{path}: features of shape {features.shape} for {len(corners)} patches; one row for each was expected."
        )
    if not np.isfinite(features).all():
        raise ValueError(f"{path}: some features are NaN or infinite; make them again.")
    patch_size, size_at_level_0 = _read_size(attributes, path)
    return PatchFeatures(
        features=features.astype(np.float32),
        places=corners[:, ::-1].astype(np.float64),
        patch_size=patch_size,
        size_at_level_0=size_at_level_0,
        path=str(path),
    )


def write_feature_file(path: str | Path, patches: PatchFeatures, attributes: Mapping[str, Any]) -> None:
    """Write features in the form of TRIDENT, which CLAM's datasets read too.

    Args:
        path: the ``.h5``; it is written whole or not at all.
        patches: what it holds.
        attributes: further attributes of ``coords``, such as ``level0_magnification`` and ``target_magnification``.

    Raises:
        ImportError: if h5py is not installed.
    """
    h5py = import_h5py()
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    corners = np.rint(patches.places[:, ::-1]).astype(np.int64)
    sizes = {"patch_size": patches.patch_size, "patch_size_level0": round(patches.size_at_level_0)}
    with replace_file(path) as temporary, h5py.File(temporary, "w") as file:
        features = file.create_dataset("features", data=patches.features.astype(np.float32))
        coords = file.create_dataset("coords", data=corners)
        features.attrs["name"] = path.stem
        features.attrs["savetodir"] = str(path.parent)
        for key, value in {**sizes, "name": path.stem, "savetodir": str(path.parent), **attributes}.items():
            coords.attrs[key] = value


def import_h5py() -> ModuleType:
    """The library of such files.

    Raises:
        ImportError: if it is not installed; the message says how to install it.
    """
    try:
        import h5py
    except ImportError as error:
        raise ImportError("files of features need h5py: pip install 'monai-jsma[features]'.") from error
    return h5py


def _read_h5(path: Path) -> _Content:
    """Features, corners (x, y) and the attributes of these; None for what the file lacks."""
    h5py = import_h5py()
    try:
        with h5py.File(path, "r") as file:
            features = file["features"][()] if "features" in file else None
            corners = file["coords"][()] if "coords" in file else None
            attributes = dict(file["coords"].attrs) if corners is not None else {}
    except OSError as error:
        raise ValueError(f"{path}: no HDF5 file can be read here ({error}); it may be cut short.") from error
    if corners is not None and (corners.ndim != 2 or corners.shape[1] != 2):
        raise ValueError(f"{path}: 'coords' of shape {corners.shape}; x and y of each patch were expected.")
    return features, corners, attributes


def _read_tensor(path: Path) -> _Content:
    import torch

    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # PyTorch raises many kinds for a broken file
        raise ValueError(f"{path}: no tensor can be read from this file: {error!r}.") from error
    if not isinstance(content, torch.Tensor):
        raise ValueError(f"{path}: it holds a {type(content).__name__}; a tensor of features was expected.")
    return content.float().numpy(), None, {}


def _find_places_file(path: Path, coords: str | Path | None) -> Path:
    if coords is None:
        raise FileNotFoundError(
            f"{path}: it does not say where its patches lie and how large they are; give the folder of their places "
            "(--coords), such as 'patches' of CLAM and TRIDENT."
        )
    coords = Path(coords)
    if coords.is_file():
        return coords
    for ending in _PLACES_ENDINGS:
        file = coords / f"{path.stem}{ending}"
        if file.is_file():
            return file
    raise FileNotFoundError(f"{path}: there are no places of its patches in {coords}; name their folder.")


def _has_size(attributes: Mapping[str, Any]) -> bool:
    return "patch_size" in attributes


def _read_size(attributes: Mapping[str, Any], path: Path) -> tuple[int, float]:
    """Height of a patch in its own pixels, and in those of level 0."""
    numbers = {}
    for key in ("patch_size", "patch_size_level0", "custom_downsample"):
        if key in attributes:
            numbers[key] = float(np.ravel(attributes[key])[0])
    for key in ("level0_magnification", "target_magnification"):
        value = np.ravel(attributes.get(key, 0))[0]
        numbers[key] = float(value) if np.issubdtype(type(value), np.number) else 0.0
    size = numbers.get("patch_size", 0.0)
    at_level_0 = numbers.get("patch_size_level0", 0.0)
    if not at_level_0 and numbers["target_magnification"] > 0:
        at_level_0 = size * numbers["level0_magnification"] / numbers["target_magnification"]
    if not at_level_0 and "downsample" in attributes:  # CLAM's: of the level that its patches were read from
        at_level_0 = size * float(np.ravel(attributes["downsample"])[0]) * numbers.get("custom_downsample", 1.0)
    if size < 1 or at_level_0 <= 0:
        raise ValueError(f"{path}: the attributes of its 'coords' do not say how large a patch is in level-0 pixels.")
    return round(size), at_level_0
