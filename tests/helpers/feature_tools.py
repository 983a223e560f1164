# Copyright (c) the monai_jsma contributors.
# SPDX-License-Identifier: Apache-2.0
"""Files of features as other tools write them, with plain h5py, and readers that go by their rules alone."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
import torch


def write_growing(file: h5py.File, name: str, values: np.ndarray) -> h5py.Dataset:
    """As both tools keep an array: chunks of one row, and room for more."""
    shape = values.shape
    dataset = file.create_dataset(
        name, shape=shape, maxshape=(None, *shape[1:]), chunks=(1, *shape[1:]), dtype=values.dtype
    )
    dataset[:] = values
    return dataset


def write_trident(path: Path, features: np.ndarray, corners: np.ndarray, *, size: int, at_level_0: int) -> Path:
    """TRIDENT's file of features; ``corners`` are x and y in level-0 pixels."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(path, "w") as file:
        write_growing(file, "features", features).attrs["name"] = path.stem
        coords = write_growing(file, "coords", corners)
        attributes = {
            "patch_size": size,
            "patch_size_level0": at_level_0,
            "level0_magnification": 40,
            "target_magnification": 40 * size // at_level_0,
            "overlap": 0,
            "name": path.stem,
            "savetodir": "here",
        }
        for key, value in attributes.items():
            coords.attrs[key] = value
    return path


def write_clam(
    folder: Path, name: str, *, features: np.ndarray, corners: np.ndarray, size: int, downsample: float
) -> Path:
    """CLAM's files: places with attributes, features with bare places, and the features alone."""
    for part in ("patches", "features/h5_files", "features/pt_files"):
        (folder / part).mkdir(parents=True, exist_ok=True)
    with h5py.File(folder / "patches" / f"{name}.h5", "w") as file:
        coords = write_growing(file, "coords", corners.astype(np.int64))
        coords.attrs["patch_size"] = size
        coords.attrs["patch_level"] = 1
        coords.attrs["downsample"] = (downsample, downsample)
        coords.attrs["level_dim"] = (100, 100)
        coords.attrs["name"] = name
    with h5py.File(folder / "features/h5_files" / f"{name}.h5", "w") as file:
        write_growing(file, "features", features.astype(np.float32))
        write_growing(file, "coords", corners.astype(np.int32))
    torch.save(torch.from_numpy(features), folder / "features/pt_files" / f"{name}.pt")
    return folder


def read_as_trident(path: Path) -> tuple[np.ndarray, np.ndarray, dict]:
    """Features, x and y, and what TRIDENT asks of the attributes: integers that give the patch at level 0."""
    with h5py.File(path, "r") as file:
        attributes = dict(file["coords"].attrs)
        features = file["features"][:]
        corners = file["coords"][:]
    for key in ("patch_size", "level0_magnification", "target_magnification"):
        assert attributes[key] is not None
    return features, corners, attributes
