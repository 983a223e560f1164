# Copyright (c) the monai_jsma contributors.
# SPDX-License-Identifier: Apache-2.0
"""Transforms that load pyramids, make thumbnails and vary the view of both."""

from __future__ import annotations

from .array import (
    FindTissue,
    LoadPyramid,
    NormalizePyramidStain,
    PyramidThumbnail,
    RandPyramidCrop,
    RandPyramidOrientation,
    RandPyramidStain,
)
from .dictionary import (
    FindTissueD,
    FindTissued,
    FindTissueDict,
    LoadPyramidD,
    LoadPyramidd,
    LoadPyramidDict,
    NormalizePyramidStainD,
    NormalizePyramidStaind,
    NormalizePyramidStainDict,
    PyramidThumbnailD,
    PyramidThumbnaild,
    PyramidThumbnailDict,
    RandPyramidCropD,
    RandPyramidCropd,
    RandPyramidCropDict,
    RandPyramidOrientationD,
    RandPyramidOrientationd,
    RandPyramidOrientationDict,
    RandPyramidStainD,
    RandPyramidStaind,
    RandPyramidStainDict,
)

__all__ = [
    "FindTissue",
    "FindTissueD",
    "FindTissueDict",
    "FindTissued",
    "LoadPyramid",
    "LoadPyramidD",
    "LoadPyramidDict",
    "LoadPyramidd",
    "NormalizePyramidStain",
    "NormalizePyramidStainD",
    "NormalizePyramidStainDict",
    "NormalizePyramidStaind",
    "PyramidThumbnail",
    "PyramidThumbnailD",
    "PyramidThumbnailDict",
    "PyramidThumbnaild",
    "RandPyramidCrop",
    "RandPyramidCropD",
    "RandPyramidCropDict",
    "RandPyramidCropd",
    "RandPyramidOrientation",
    "RandPyramidOrientationD",
    "RandPyramidOrientationDict",
    "RandPyramidOrientationd",
    "RandPyramidStain",
    "RandPyramidStainD",
    "RandPyramidStainDict",
    "RandPyramidStaind",
]
