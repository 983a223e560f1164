# Copyright (c) the monai_jsma contributors.
# SPDX-License-Identifier: Apache-2.0
"""Dictionary forms of :mod:`monai_jsma.transforms.array`, with MONAI's aliases: ``LoadPyramidD`` and so on."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np
from monai.config import KeysCollection
from monai.transforms import MapTransform, RandomizableTransform
from monai.utils import ensure_tuple

from monai_jsma.data.stain import MACENKO
from monai_jsma.datalists.schema import find_monai_fault
from monai_jsma.geometry import MAX_UPSAMPLING, Magnification
from monai_jsma.transforms.array import (
    FindTissue,
    LabelsToMultiHot,
    LoadPyramid,
    NormalizePyramidStain,
    PyramidThumbnail,
    RandPyramidCrop,
    RandPyramidOrientation,
    RandPyramidStain,
)

__all__ = [
    "FindTissueD",
    "FindTissueDict",
    "FindTissued",
    "LabelsToMultiHotD",
    "LabelsToMultiHotDict",
    "LabelsToMultiHotd",
    "LoadPyramidD",
    "LoadPyramidDict",
    "LoadPyramidd",
    "NormalizePyramidStainD",
    "NormalizePyramidStainDict",
    "NormalizePyramidStaind",
    "PyramidThumbnailD",
    "PyramidThumbnailDict",
    "PyramidThumbnaild",
    "RandPyramidCropD",
    "RandPyramidCropDict",
    "RandPyramidCropd",
    "RandPyramidOrientationD",
    "RandPyramidOrientationDict",
    "RandPyramidOrientationd",
    "RandPyramidStainD",
    "RandPyramidStainDict",
    "RandPyramidStaind",
]

_RandPyramid = RandPyramidCrop | RandPyramidOrientation | RandPyramidStain


class LoadPyramidd(MapTransform):
    """Dictionary form of :class:`~monai_jsma.transforms.LoadPyramid`: paths, or images in memory, become pyramids.

    Args:
        keys: keys of the paths or images.
        magnifications: spacings in um per pixel, or names ("100X").
        patch_size: height and width of a patch, in pixels of its magnification.
        reader: name of the reader to use instead of the choice by the file's tags.
        max_upsampling: how much finer than level 0 a magnification may be before it is refused.
        mpp_key: key of the spacing of level 0 in the same item, if it has one.
        location_key: key of the (row, column) of a region, if the item has one.
        size_key: key of the (height, width) of a region, if the item has one.
        default_mpp: spacing of level 0 in um per pixel where neither the item nor the file states a credible one.
        aligned: put the patches side by side, on the file's tile borders.
        whole_image: make each image one patch, whatever its size.
        allow_missing_keys: do not raise if a key is missing.
    """

    backend = LoadPyramid.backend

    def __init__(
        self,
        keys: KeysCollection,
        magnifications: Sequence[float | str | Magnification],
        patch_size: int = 299,
        *,
        reader: str | None = None,
        max_upsampling: float = MAX_UPSAMPLING,
        mpp_key: str = "mpp",
        location_key: str = "location",
        size_key: str = "size",
        default_mpp: float | None = None,
        aligned: bool = False,
        whole_image: bool = False,
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.loader = LoadPyramid(
            magnifications,
            patch_size,
            reader,
            max_upsampling=max_upsampling,
            default_mpp=default_mpp,
            aligned=aligned,
            whole_image=whole_image,
        )
        self.mpp_key = mpp_key
        self.location_key = location_key
        self.size_key = size_key

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Open the file of each key.

        Raises:
            ValueError: if the item is one of MONAI's ``PatchWSIDataset``, whose locations are centers.
        """
        d = dict(data)
        monai_fault = find_monai_fault(d, self.location_key)
        if monai_fault:
            paths = ", ".join(_name_image(d[key]) for key in self.key_iterator(d))
            raise ValueError(f"{paths}: {monai_fault}")
        for key in self.key_iterator(d):
            d[key] = self.loader(d[key], d.get(self.mpp_key), d.get(self.location_key), d.get(self.size_key))
        return d


def _name_image(image: Any) -> str:
    """The path of an image, or of the file that one in memory came from."""
    if hasattr(image, "shape"):
        return str(getattr(image, "meta", {}).get("filename_or_obj") or "an image in memory")
    return str(image)


class FindTissued(MapTransform):
    """Dictionary form of :class:`~monai_jsma.transforms.FindTissue`.

    Args:
        keys: keys of the pyramids.
        allow_missing_keys: do not raise if a key is missing.
        mask_key: key of the file of a mask in the same item, if it has one.
        frame_key: key of the corner that the mask counts from, if the item has one.
    """

    backend = FindTissue.backend

    def __init__(
        self,
        keys: KeysCollection,
        allow_missing_keys: bool = False,
        *,
        mask_key: str = "mask",
        frame_key: str = "mask_frame",
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.find = FindTissue()
        self.mask_key = mask_key
        self.frame_key = frame_key

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Find the tissue of each key."""
        d = dict(data)
        for key in self.key_iterator(d):
            d[key] = self.find(d[key], d.get(self.mask_key), d.get(self.frame_key))
        return d


class LabelsToMultiHotd(MapTransform):
    """Dictionary form of :class:`~monai_jsma.transforms.LabelsToMultiHot`.

    Args:
        keys: keys of the labels.
        num_classes: number of classes.
        allow_missing_keys: do not raise if a key is missing.
    """

    backend = LabelsToMultiHot.backend

    def __init__(self, keys: KeysCollection, num_classes: int, allow_missing_keys: bool = False) -> None:
        super().__init__(keys, allow_missing_keys)
        self.convert = LabelsToMultiHot(num_classes)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Convert the label of each key."""
        d = dict(data)
        for key in self.key_iterator(d):
            d[key] = self.convert(d[key])
        return d


class NormalizePyramidStaind(MapTransform):
    """Dictionary form of :class:`~monai_jsma.transforms.NormalizePyramidStain`.

    Args:
        keys: keys of the pyramids.
        method: ``"macenko"``.
        allow_missing_keys: do not raise if a key is missing.

    Raises:
        ValueError: for another method.
    """

    backend = NormalizePyramidStain.backend

    def __init__(self, keys: KeysCollection, method: str = MACENKO, allow_missing_keys: bool = False) -> None:
        super().__init__(keys, allow_missing_keys)
        self.normalize = NormalizePyramidStain(method)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Normalize the stains of each key."""
        d = dict(data)
        for key in self.key_iterator(d):
            d[key] = self.normalize(d[key])
        return d


class PyramidThumbnaild(MapTransform):
    """Dictionary form of :class:`~monai_jsma.transforms.PyramidThumbnail`; the pyramid stays beside its thumbnail.

    Args:
        keys: keys of the pyramids; the thumbnails take their place.
        size: height and width of the thumbnail.
        pyramid_key: key under which the pyramid is kept; with several keys, one name for each.
        allow_missing_keys: do not raise if a key is missing.

    Raises:
        ValueError: when ``pyramid_key`` has another number of names than ``keys``.
    """

    backend = PyramidThumbnail.backend

    def __init__(
        self,
        keys: KeysCollection,
        size: Sequence[int],
        pyramid_key: KeysCollection = "pyramid",
        *,
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.thumbnail = PyramidThumbnail(size)
        self.pyramid_keys = ensure_tuple(pyramid_key)
        if len(self.pyramid_keys) != len(self.keys):
            raise ValueError(f"{len(self.keys)} keys need as many pyramid_key names, but got {self.pyramid_keys}.")

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Make the thumbnail of each key."""
        d = dict(data)
        for key, pyramid_key in self.key_iterator(d, self.pyramid_keys):
            d[pyramid_key] = d[key]
            d[key] = self.thumbnail(d[key])
        return d


class _RandPyramidd(RandomizableTransform, MapTransform):
    """A random change of the view, drawn once and applied to all keys."""

    def __init__(self, keys: KeysCollection, transform: _RandPyramid, allow_missing_keys: bool) -> None:
        MapTransform.__init__(self, keys, allow_missing_keys)
        RandomizableTransform.__init__(self, 1.0)  # the wrapped transform draws whether it acts
        self.transform = transform

    def set_random_state(
        self, seed: int | None = None, state: np.random.RandomState | None = None
    ) -> RandomizableTransform:
        """Seed this transform and the one that it wraps."""
        super().set_random_state(seed, state)
        self.transform.set_random_state(seed, state)
        return self

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Draw once, then change the pyramid of each key."""
        d = dict(data)
        self.transform.randomize()
        for key in self.key_iterator(d):
            d[key] = self.transform(d[key], randomize=False)
        return d


class RandPyramidOrientationd(_RandPyramidd):
    """Dictionary form of :class:`~monai_jsma.transforms.RandPyramidOrientation`.

    Args:
        keys: keys of the pyramids.
        prob: probability that the transform acts at all.
        allow_missing_keys: do not raise if a key is missing.
    """

    backend = RandPyramidOrientation.backend

    def __init__(self, keys: KeysCollection, prob: float = 1.0, allow_missing_keys: bool = False) -> None:
        super().__init__(keys, RandPyramidOrientation(prob), allow_missing_keys)


class RandPyramidStaind(_RandPyramidd):
    """Dictionary form of :class:`~monai_jsma.transforms.RandPyramidStain`.

    Args:
        keys: keys of the pyramids.
        scale: each amount of stain is multiplied by 1 plus a uniform number in [-scale, scale].
        shift: each amount is shifted by a uniform number in [-shift, shift], in optical density.
        prob: probability that the transform acts at all.
        allow_missing_keys: do not raise if a key is missing.
    """

    backend = RandPyramidStain.backend

    def __init__(
        self,
        keys: KeysCollection,
        scale: float = 0.1,
        shift: float = 0.01,
        *,
        prob: float = 1.0,
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, RandPyramidStain(scale, shift, prob), allow_missing_keys)


class RandPyramidCropd(_RandPyramidd):
    """Dictionary form of :class:`~monai_jsma.transforms.RandPyramidCrop`.

    Args:
        keys: keys of the pyramids.
        min_scale: height and width are each multiplied by a uniform number in [min_scale, 1].
        prob: probability that the transform acts at all.
        allow_missing_keys: do not raise if a key is missing.

    Raises:
        ValueError: if ``min_scale`` is outside (0, 1].
    """

    backend = RandPyramidCrop.backend

    def __init__(
        self,
        keys: KeysCollection,
        min_scale: float = 0.7,
        prob: float = 1.0,
        *,
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, RandPyramidCrop(min_scale, prob), allow_missing_keys)


FindTissueD = FindTissueDict = FindTissued
LabelsToMultiHotD = LabelsToMultiHotDict = LabelsToMultiHotd
LoadPyramidD = LoadPyramidDict = LoadPyramidd
NormalizePyramidStainD = NormalizePyramidStainDict = NormalizePyramidStaind
PyramidThumbnailD = PyramidThumbnailDict = PyramidThumbnaild
RandPyramidCropD = RandPyramidCropDict = RandPyramidCropd
RandPyramidOrientationD = RandPyramidOrientationDict = RandPyramidOrientationd
RandPyramidStainD = RandPyramidStainDict = RandPyramidStaind
