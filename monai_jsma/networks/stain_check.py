# Copyright (c) the monai_jsma contributors.
# SPDX-License-Identifier: Apache-2.0
"""A network looks at images with the stain normalization that it was trained with, or at none."""

from __future__ import annotations

from monai_jsma.data import Pyramid
from monai_jsma.data.stain import MACENKO

__all__ = ["check_stain", "read_stain_norm"]


def read_stain_norm(stain_norm: str | None) -> str | None:
    """The name of a stain normalization.

    Raises:
        ValueError: if it is not offered.
    """
    if stain_norm not in (None, MACENKO):
        raise ValueError(f"unknown stain_norm {stain_norm!r}; choose '{MACENKO}' or None.")
    return stain_norm


def check_stain(stain_norm: str | None, source: object) -> None:
    """Refuse images whose stains are normalized otherwise than the network expects.

    Args:
        stain_norm: name of the network's normalization.
        source: where the images are read from; None, or a batch that is no list of pyramids: whole images as they are.

    Raises:
        ValueError: it names the image.
    """
    if not isinstance(source, list):
        if stain_norm is not None:
            raise ValueError(
                f"the network has stain_norm '{stain_norm}', which is of pyramids: give 'pyramid', made by LoadPyramid "
                "and NormalizePyramidStain."
            )
        return
    for pyramid in source:
        if not isinstance(pyramid, Pyramid):
            continue
        own = None if pyramid.normalization is None else pyramid.normalization.method
        if own != stain_norm:
            raise ValueError(
                f"{pyramid.path}: its stain normalization is {own}, but that of the network {stain_norm}: add or leave "
                "out NormalizePyramidStain ('stain_norm' of a bundle), as in the training."
            )
