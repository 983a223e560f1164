# Copyright (c) the monai_jsma contributors.
# SPDX-License-Identifier: Apache-2.0
"""Array transforms: a path becomes a lazy pyramid, a pyramid becomes a thumbnail; the random ones act on the pyramid.

Because they change the view and not the pixels, thumbnail and patches always agree, whenever each is read. The random
ones come before the thumbnail: one that was made already does not follow.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from monai.data import MetaTensor
from monai.transforms import RandomizableTransform, Transform
from monai.utils import TransformBackends

from monai_jsma.data.pyramid import Pyramid
from monai_jsma.data.stain import StainMap
from monai_jsma.geometry import Magnification, sorted_magnifications
from monai_jsma.slides.identity import file_identity
from monai_jsma.slides.open import inspect_slide, known_mpp
from monai_jsma.slides.readers import open_reader
from monai_jsma.slides.spacing import resolve_mpp

__all__ = ["LoadPyramid", "PyramidThumbnail", "RandPyramidCrop", "RandPyramidOrientation", "RandPyramidStain"]

_BACKENDS = [TransformBackends.NUMPY]


class LoadPyramid(Transform):
    """Open a picture or slide as a :class:`~monai_jsma.data.Pyramid`.

    Flat pictures (PNG, JPEG, BMP, strip TIFF) are decoded into memory; tiled pyramids and slides stay on disk, and only
    the patches that are asked for are decoded.

    Args:
        magnifications: spacings in um per pixel, or names ("100X").
        patch_size: height and width of a patch, in pixels of its magnification.
        reader: force "cucim", "openslide", "tifffile" or "pil" instead of the choice by the file's tags.
        max_upsampling: how much finer than level 0 a magnification may be before it is refused.
        default_mpp: um per pixel of level 0 where neither the call nor the file tells a credible one.
        aligned: put the patches side by side, see :class:`~monai_jsma.geometry.PatchGeometry`. Of tiled files with
            ``patch_size`` the tiles' size, a patch then decodes one tile; in a region, if it begins on tile borders.

    Raises:
        ValueError: if ``default_mpp`` is no spacing of a microscope.
    """

    backend = _BACKENDS

    def __init__(
        self,
        magnifications: Sequence[float | str | Magnification],
        patch_size: int = 299,
        reader: str | None = None,
        max_upsampling: float = 1.05,
        default_mpp: float | None = None,
        aligned: bool = False,
    ) -> None:
        if default_mpp is not None:
            resolve_mpp("default_mpp", (), default_mpp)  # its range is checked now, not when a file needs it
        self.options: dict[str, Any] = {
            "magnifications": sorted_magnifications(magnifications),
            "patch_size": patch_size,
            "max_upsampling": max_upsampling,
            "aligned": aligned,
        }
        self.reader, self.default_mpp = reader, default_mpp

    def __call__(
        self,
        path: str | os.PathLike,
        mpp: float | None = None,
        location: Sequence[int] | None = None,
        size: Sequence[int] | None = None,
    ) -> Pyramid:
        """Open ``path``.

        Args:
            path: file of a picture or slide.
            mpp: um per pixel of level 0; overrides what the file says.
            location: row and column of a region's top-left corner, in level-0 pixels.
            size: height and width of the region, in level-0 pixels.

        Raises:
            FileNotFoundError: if there is no such file.
            SlideError: if the file cannot be read.
            ValueError: if its spacing is unknown, too coarse for the magnifications, or the region leaves it.
        """
        info = inspect_slide(path, reader=self.reader, mpp=mpp)
        known, source = known_mpp(info, self.default_mpp)
        identity = file_identity(info.path)  # before any pixel is read: of what is read, or of what was there before
        return Pyramid(
            open_reader(info),
            identity=identity,
            mpp=known,
            mpp_source=source,
            path=info.path,
            origin=(0, 0) if location is None else (int(location[0]), int(location[1])),
            size=None if size is None else (int(size[0]), int(size[1])),
            **self.options,
        )


class PyramidThumbnail(Transform):
    """The thumbnail of a pyramid: the whole picture averaged to one size.

    Args:
        size: height and width; pictures of another shape are stretched, and so is their attention, back again.
    """

    backend = _BACKENDS

    def __init__(self, size: Sequence[int]) -> None:
        self.size = (int(size[0]), int(size[1]))

    def __call__(self, pyramid: Pyramid) -> MetaTensor:
        """``uint8`` of shape ``(3, height, width)``, with the file's name and spacing as metadata."""
        g = pyramid.geometry
        scale = np.diag([g.size[0] / self.size[0], g.size[1] / self.size[1], 1.0, 1.0])
        meta = {
            "filename_or_obj": pyramid.path,
            "mpp": pyramid.mpp,
            "mpp_source": pyramid.mpp_source,
            "location": np.asarray(pyramid.origin),
            "size": np.asarray(g.size),
            "orientation": pyramid.orientation,
        }
        return MetaTensor(torch.from_numpy(pyramid.thumbnail(self.size)), affine=torch.as_tensor(scale), meta=meta)


class RandPyramidOrientation(RandomizableTransform):
    """One of the eight orientations of a square at random; of the four that keep height and width if it is no square.

    Args:
        prob: probability to act at all.
    """

    backend = _BACKENDS

    def __init__(self, prob: float = 1.0) -> None:
        super().__init__(prob)
        self._choice = 0

    def randomize(self, data: Any = None) -> None:
        """Draw one of the eight; how many of them a picture allows is not known yet."""
        super().randomize(None)
        self._choice = int(self.R.randint(8))

    def __call__(self, pyramid: Pyramid, randomize: bool = True) -> Pyramid:
        """The pyramid in the drawn orientation."""
        if randomize:
            self.randomize()
        if not self._do_transform:
            return pyramid
        height, width = pyramid.geometry.size
        return pyramid.oriented(self._choice if height == width else self._choice & 3 | pyramid.orientation & 4)


class RandPyramidStain(RandomizableTransform):
    """Random amounts of hematoxylin, eosin and residual, equal over a picture.

    Args:
        scale: each amount is multiplied by 1 plus a uniform number in [-scale, scale].
        shift: and a uniform number in [-shift, shift] is added, in optical density.
        prob: probability to act at all.
    """

    backend = _BACKENDS

    def __init__(self, scale: float = 0.1, shift: float = 0.01, prob: float = 1.0) -> None:
        super().__init__(prob)
        self.scale, self.shift = scale, shift
        self._stain = StainMap()

    def randomize(self, data: Any = None) -> None:
        """Draw three factors and three summands."""
        super().randomize(None)
        scale = 1 + self.R.uniform(-self.scale, self.scale, 3)
        shift = self.R.uniform(-self.shift, self.shift, 3)
        self._stain = StainMap(tuple(scale.tolist()), tuple(shift.tolist()))

    def __call__(self, pyramid: Pyramid, randomize: bool = True) -> Pyramid:
        """The pyramid with the drawn stain."""
        if randomize:
            self.randomize()
        return pyramid.stained(self._stain) if self._do_transform else pyramid


class RandPyramidCrop(RandomizableTransform):
    """A part of the picture at random, so that the patches of every epoch are new ones at the same magnifications.

    Args:
        min_scale: height and width are each multiplied by a uniform number in [min_scale, 1], and rounded to whole
            pixels of the coarsest magnification, on which the part begins too.
        prob: probability to act at all.

    Raises:
        ValueError: if ``min_scale`` is outside (0, 1].
    """

    backend = _BACKENDS

    def __init__(self, min_scale: float = 0.7, prob: float = 1.0) -> None:
        super().__init__(prob)
        if not 0 < min_scale <= 1:
            raise ValueError(f"min_scale must be in (0, 1], but got {min_scale}.")
        self.min_scale = min_scale
        self._scale, self._place = np.ones(2), np.zeros(2)

    def randomize(self, data: Any = None) -> None:
        """Draw the share of rows and columns, and where they begin."""
        super().randomize(None)
        self._scale, self._place = self.R.uniform(self.min_scale, 1, 2), self.R.uniform(0, 1, 2)

    def __call__(self, pyramid: Pyramid, randomize: bool = True) -> Pyramid:
        """The drawn part of the pyramid."""
        if randomize:
            self.randomize()
        if not self._do_transform:
            return pyramid
        stored = pyramid.stored_geometry
        # Whole pixels of the coarsest magnification: what needs no resampling, or only means of boxes, still does not.
        unit = max(1, round(stored.magnifications[0].mpp / stored.mpp))  # type: ignore[union-attr]
        height, width = (min(n, max(1, round(n * x / unit)) * unit) for n, x in zip(stored.size, self._scale))
        rooms = ((n - m) // unit for n, m in zip(stored.size, (height, width)))
        row, col = (int((room + 1) * place) * unit for room, place in zip(rooms, self._place))
        return pyramid.cropped((row, col), (height, width))
