# Copyright (c) the monai_jsma contributors.
# SPDX-License-Identifier: Apache-2.0
"""Features that another tool made take the place of those of a frozen f, and those of f are given to other tools.

A feature is taken only where the patch is the same: as many pixels, of the same spacing, at the same place. That the
encoder is the same cannot be read from such files; so a few patches of each are encoded, and compared.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from scipy.spatial import cKDTree

from monai_jsma.data import Pyramid, PyramidBatch
from monai_jsma.data.feature_files import PatchFeatures
from monai_jsma.networks.patch_encoder import PatchEncoder

__all__ = ["export_features", "import_features", "match_cells"]

_NUM_CHECKS = 8
# Median difference from our own features, relative to their length, above which the encoder is another one. The same
# EfficientNet-Lite0 after Pillow's resizing of patches of a real slide: 0.10 to 0.21 by its filter; with another
# normalization of the input 0.89, the neighboring patch 0.97, another model 1.42.
_TOLERANCE = 0.3


def match_cells(pyramid: Pyramid, patches: PatchFeatures) -> dict[int, int]:
    """Which patches of a file are patches of a pyramid: the row in the file for each cell, as far as it has one.

    Args:
        pyramid: the image or region, with the network's magnifications and size of patches.
        patches: patches of the same slide.

    Raises:
        ValueError: if none is, because of the size of the patches, their spacing, or their places.
    """
    geometry = pyramid.stored_geometry
    if patches.patch_size != geometry.patch_size:
        raise ValueError(
            f"{patches.path}: its patches have {patches.patch_size} pixels, those of the network "
            f"{geometry.patch_size}: set 'patch_size' to {patches.patch_size}, or make the features again."
        )
    tree = cKDTree(patches.places)
    fits = False
    matches: dict[int, int] = {}
    for level in range(len(geometry.spacings)):
        cells = range(geometry.offsets[level], geometry.offsets[level + 1])
        boxes = [pyramid.box(cell) for cell in cells]
        pixel = boxes[0].height / geometry.patch_size  # of this magnification, in those of level 0
        if abs(boxes[0].height - patches.size_at_level_0) > pixel:
            continue
        fits = True
        corners = np.array([(box.row, box.col) for box in boxes])
        distances, rows = tree.query(corners, p=np.inf, distance_upper_bound=pixel)
        for cell, distance, row in zip(cells, distances.tolist(), rows.tolist()):
            if np.isfinite(distance):
                matches[cell] = row
    if not fits:
        raise ValueError(_explain_spacing(pyramid, patches))
    if not matches:
        raise ValueError(
            f"{patches.path}: its patches have the right size and spacing, but none lies where the network has one: "
            "set 'aligned' to true, whose patches lie side by side from the corner of the image; patches that begin at "
            "the corner of each piece of tissue, as CLAM's may, fit no grid."
        )
    return matches


def _explain_spacing(pyramid: Pyramid, patches: PatchFeatures) -> str:
    spacing = pyramid.mpp * patches.downsample
    own = ", ".join(f"{mpp:.4g}" for mpp in pyramid.stored_geometry.spacings)
    nearest = min(pyramid.stored_geometry.spacings, key=lambda mpp: abs(mpp / spacing - 1))
    nominal = nearest / patches.downsample
    return (
        f"{patches.path}: its patches of {patches.size_at_level_0:g} level-0 pixels have {spacing:.4g} um per pixel "
        f"where level 0 has {pyramid.mpp:.4g} ({pyramid.mpp_source}), but the network's magnifications are {own}: set "
        f"'magnifications' to [{spacing:.4g}]; or, if the tool took a nominal spacing for the slide's own, state the "
        f"same in the datalist ('mpp': {nominal:.4g} for {nearest:.4g})."
    )


@torch.no_grad()
def import_features(encoder: PatchEncoder, pyramid: Pyramid, patches: PatchFeatures) -> int:
    """Put features of a file into the feature cache of a frozen f, as if it had made them.

    Args:
        encoder: f, with its weights, and a feature cache.
        pyramid: the image or region, opened as the network will open it.
        patches: patches of its slide.

    Returns:
        the number of cells that have a feature now. The others are encoded when they are read.

    Raises:
        ValueError: if patches or encoder do not agree, or if nothing is cached of this image.
    """
    cache = encoder.feature_cache
    view = pyramid.key
    if cache is None:
        raise ValueError("the encoder keeps no features: freeze f, and give it a folder for them (feature_cache).")
    if view is None:
        raise ValueError(f"{pyramid.path}: nothing is kept of an image that is no file, or of a random view.")
    if patches.features.shape[1] != encoder.num_features:
        raise ValueError(
            f"{patches.path}: its features have {patches.features.shape[1]} numbers, those of the network's f "
            f"{encoder.num_features}: name the encoder that made them ('patch_backbone'), with its pooling."
        )
    matches = match_cells(pyramid, patches)
    cells = list(matches)
    rows = list(matches.values())
    _check_encoder(encoder, pyramid, patches, matches)
    keys = [view + cell.to_bytes(8, "little") for cell in cells]
    cache.add(encoder.backbone, keys, patches.features[rows])
    return len(cells)


def _check_encoder(encoder: PatchEncoder, pyramid: Pyramid, patches: PatchFeatures, matches: dict[int, int]) -> None:
    """Encode a few of the patches, and compare.

    Raises:
        ValueError: if the features are others.
    """
    cells = list(matches)
    step = max(1, len(cells) // _NUM_CHECKS)
    checked = cells[::step][:_NUM_CHECKS]
    own = _encode(encoder, pyramid, checked)
    given = patches.features[[matches[cell] for cell in checked]]
    lengths = np.linalg.norm(own, axis=1)
    differences = np.linalg.norm(given - own, axis=1) / np.maximum(lengths, np.finfo(np.float32).tiny)
    difference = float(np.median(differences))
    if not difference <= _TOLERANCE:
        raise ValueError(
            f"{patches.path}: its features are not those of the network's f: those of {len(checked)} patches that were "
            f"encoded here differ by {difference:.0%} of their length; name the encoder that made them "
            "('patch_backbone'), with its weights, pooling and input."
        )


def _encode(encoder: PatchEncoder, pyramid: Pyramid, cells: Sequence[int]) -> np.ndarray:
    """Features ``(n, channels)`` as the backbone gives them, without the cache."""
    device = next(iter(encoder.backbone.buffers())).device
    pixels = torch.from_numpy(pyramid.read(cells)).to(device)
    parts = [encoder.pool(chunk) for chunk in pixels.split(encoder.chunk_size)]
    return torch.cat(parts).cpu().numpy()


@torch.no_grad()
def export_features(encoder: PatchEncoder, pyramid: Pyramid) -> list[PatchFeatures]:
    """Features of all patches of an image as f gives them, one for each magnification, coarse to fine.

    Features that the cache of a frozen f has are taken from there, and the others are added to it.

    Args:
        encoder: f, with its weights.
        pyramid: the image or region.
    """
    geometry = pyramid.stored_geometry
    batch = PyramidBatch([pyramid])
    exported = []
    for level in range(len(geometry.spacings)):
        cells = range(geometry.offsets[level], geometry.offsets[level + 1])
        boxes = [pyramid.box(cell) for cell in cells]
        features = encoder.read_features(batch, torch.tensor(cells))
        exported.append(
            PatchFeatures(
                features=features.cpu().numpy(),
                places=np.array([(box.row, box.col) for box in boxes]),
                patch_size=geometry.patch_size,
                size_at_level_0=boxes[0].height,
                path=pyramid.path,
            )
        )
    return exported
