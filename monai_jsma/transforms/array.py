# Copyright (c) the monai_jsma contributors.
# SPDX-License-Identifier: Apache-2.0
"""Array transforms: a path becomes a lazy pyramid, a pyramid becomes a thumbnail; the random ones act on the pyramid.

They change the view and not the pixels, so thumbnail and patches always agree, whenever each is read. The random
transforms come before the thumbnail: one that was made already does not change with the view.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from monai.data import MetaTensor
from monai.transforms import RandomizableTransform, Transform
from monai.utils import TransformBackends

from monai_jsma.data.pyramid import Pyramid
from monai_jsma.data.stain import MACENKO, StainMap, StainNormalization
from monai_jsma.data.tensor_batch import round_to_uint8
from monai_jsma.datalists.image_opening import choose_magnifications, list_region, open_pyramid
from monai_jsma.datalists.schema import find_region
from monai_jsma.datalists.tissue import find_tissue
from monai_jsma.geometry import MAX_UPSAMPLING, Magnification, oriented_size, sorted_magnifications
from monai_jsma.slides.base import ArrayReader, SlideInfo
from monai_jsma.slides.spacing import resolve_mpp
from monai_jsma.tasks import make_multi_hot

__all__ = [
    "FindTissue",
    "LabelsToMultiHot",
    "LoadPyramid",
    "NormalizePyramidStain",
    "PyramidThumbnail",
    "RandPyramidCrop",
    "RandPyramidOrientation",
    "RandPyramidStain",
]

_MAX_STRETCH = 0.02  # relative difference of height and width of a pixel
_NUM_SAMPLES = 32  # patches that the colors of the stains are estimated from
_BACKENDS = [TransformBackends.NUMPY]


class LoadPyramid(Transform):
    """Open an image or slide as a :class:`~monai_jsma.data.Pyramid`, or see an image in memory as one.

    Flat images (PNG, JPEG, BMP, strip TIFF) are decoded into memory; tiled pyramids and slides stay on disk, and only
    the patches that are asked for are decoded.

    Args:
        magnifications: spacings in um per pixel, or names ("100X").
        patch_size: height and width of a patch, in pixels of its magnification.
        reader: name of the reader to use ("cucim", "openslide", "tifffile" or "pil") instead of the choice by the
            file's tags.
        max_upsampling: how much finer than level 0 a magnification may be before it is refused.
        default_mpp: spacing of level 0 in um per pixel where neither the call nor the file states a credible one.
        aligned: put the patches side by side, see :class:`~monai_jsma.geometry.PatchGeometry`. In a tiled file whose
            tiles have ``patch_size``, a patch then decodes one tile; in a region, if it begins on tile borders.
        whole_image: make each image one patch, whatever its size: instead of ``magnifications`` it has one spacing, at
            which its longer side is ``patch_size`` pixels. The shorter side is padded with white, as is an image that
            is smaller than the patch.

    Raises:
        ValueError: if ``default_mpp`` is no spacing of a microscope.
    """

    backend = _BACKENDS

    def __init__(
        self,
        magnifications: Sequence[float | str | Magnification],
        patch_size: int = 299,
        reader: str | None = None,
        *,
        max_upsampling: float = MAX_UPSAMPLING,
        default_mpp: float | None = None,
        aligned: bool = False,
        whole_image: bool = False,
    ) -> None:
        default, _ = resolve_mpp("default_mpp", (), default_mpp)  # its range is checked now, not when a file needs it
        self.magnifications = sorted_magnifications(magnifications)
        self.patch_size = patch_size
        self.reader = reader
        self.max_upsampling = max_upsampling
        self.default_mpp = default
        self.aligned = aligned
        self.whole_image = whole_image

    def __call__(
        self,
        path: str | os.PathLike | np.ndarray | torch.Tensor,
        mpp: float | None = None,
        location: Sequence[int] | None = None,
        size: Sequence[int] | None = None,
    ) -> Pyramid:
        """Open ``path``.

        Args:
            path: path of an image or slide; or an image in memory: an array ``(height, width, 3)``, or a tensor
                ``(3, height, width)`` such as MONAI's ``LoadImage(reader="PILReader", reverse_indexing=False,
                ensure_channel_first=True)`` gives, ``uint8``, floats in [0, 1], or whole numbers in 0..255.
            mpp: spacing of level 0 in um per pixel; overrides what the file states. That of a ``MetaTensor`` is
                multiplied by its ``pixdim``, so that an image that MONAI has resized keeps its place in the world.
            location: row and column of a region's top-left corner, in level-0 pixels; by default that of the image.
            size: height and width of the region, in level-0 pixels; by default all of the image.

        Raises:
            FileNotFoundError: if there is no such file.
            SlideError: if the file cannot be read.
            ValueError: if its spacing is unknown, too coarse for the magnifications, the region leaves it,
                ``location`` is without ``size``, or an image in memory is no RGB image, or turned by its loader.
        """
        if isinstance(path, (np.ndarray, torch.Tensor)):
            return self._see_image(path, mpp, location=location, size=size)
        return open_pyramid(
            path,
            self.magnifications,
            patch_size=self.patch_size,
            mpp=mpp,
            default_mpp=self.default_mpp,
            location=location,
            size=size,
            reader=self.reader,
            max_upsampling=self.max_upsampling,
            aligned=self.aligned,
            whole_image=self.whole_image,
        )

    def _see_image(
        self,
        image: np.ndarray | torch.Tensor,
        mpp: float | None,
        *,
        location: Sequence[int] | None,
        size: Sequence[int] | None,
    ) -> Pyramid:
        """The pyramid of an image in memory; without an identity, so that nothing is cached under its name."""
        metadata = getattr(image, "meta", {})
        path = str(metadata.get("filename_or_obj") or "")
        where = path or "an image in memory"
        _check_turned(image, where)
        pixels = _find_rgb(image, where)
        spacing, _ = resolve_mpp(where, (), self.default_mpp if mpp is None else mpp)
        if spacing is None:
            raise ValueError(f"{where}: an image in memory states no spacing; give 'mpp', in um per pixel.")

        region = list_region(location, size, where)
        height, width = pixels.shape[:2]
        info = SlideInfo(
            path=where,
            reader="array",
            reason="an image in memory",
            level_sizes=((height, width),),
            mpp=spacing,
            mpp_source="given",
        )
        origin, region_size = find_region(region, info)
        level_0_mpp = spacing * _find_scale(image, where)
        return Pyramid(
            ArrayReader(pixels, path),
            mpp=level_0_mpp,
            magnifications=self._choose_magnifications(region_size, level_0_mpp),
            patch_size=self.patch_size,
            path=path,
            mpp_source="given" if mpp is not None else "default",
            origin=_pair(origin),
            size=_pair(region_size),
            max_upsampling=self.max_upsampling,
            aligned=self.aligned,
        )

    def _choose_magnifications(self, size: Sequence[int], mpp: float) -> tuple[Magnification, ...]:
        """The magnifications of an image of ``size`` (height, width) in pixels of ``mpp``."""
        if not self.whole_image:
            return self.magnifications
        return choose_magnifications(size, mpp, self.patch_size)


def _check_turned(image: np.ndarray | torch.Tensor, where: str) -> None:
    """Check that rows and columns of an image are not exchanged, as MONAI's ``PILReader`` does by default.

    A square image does not show it: it gives a warning.

    Raises:
        ValueError: if they are.
    """
    metadata = getattr(image, "meta", {})
    width = metadata.get("width")
    height = metadata.get("height")
    if width is None or height is None:
        return
    if width == height:
        warnings.warn(
            "whether MONAI's PILReader exchanged rows and columns cannot be seen in a square image: load it with "
            "LoadImage(reader='PILReader', reverse_indexing=False).",
            stacklevel=2,
        )
        return
    if (int(width), int(height)) in (tuple(image.shape[1:3]), tuple(image.shape[:2])):
        raise ValueError(
            f"{where}: rows and columns of the image are exchanged: its shape is {tuple(image.shape)}, but the file "
            f"is {height} high and {width} wide; load it with LoadImage(reader='PILReader', reverse_indexing=False)."
        )


def _find_rgb(image: np.ndarray | torch.Tensor, where: str) -> np.ndarray:
    """The pixels of an image in memory, ``uint8`` ``(height, width, 3)``.

    Raises:
        ValueError: if it is no RGB image, or its values are none of a pixel.
    """
    is_tensor = isinstance(image, torch.Tensor)
    tensor = image.detach().cpu() if isinstance(image, torch.Tensor) else torch.from_numpy(np.ascontiguousarray(image))
    if isinstance(tensor, MetaTensor):
        tensor = tensor.as_tensor()
    shape = tuple(tensor.shape)
    is_first = tensor.ndim == 3 and shape[0] == 3
    is_last = tensor.ndim == 3 and shape[2] == 3
    if not (is_first or is_last):
        raise ValueError(
            f"{where}: an image in memory is an array (height, width, 3) or a tensor (3, height, width), but this has "
            f"the shape {shape}; convert it to RGB."
        )
    if is_first and (is_tensor or not is_last):
        tensor = tensor.permute(1, 2, 0)

    try:
        pixels = _scale_to_uint8(tensor)
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from error
    return np.ascontiguousarray(pixels.numpy())


def _scale_to_uint8(pixels: torch.Tensor) -> torch.Tensor:
    """Pixels as ``uint8``: whole numbers in 0..255 of any type as they are, floats in [0, 1] times 255."""
    if pixels.dtype == torch.uint8 or not pixels.numel():
        return pixels
    low, high = (float(extreme) for extreme in pixels.aminmax())
    is_whole = not pixels.is_floating_point() or bool((pixels == pixels.round()).all())
    in_unit_range = pixels.is_floating_point() and high <= 1
    if is_whole and not in_unit_range and low >= 0 and high <= 255:
        return pixels.to(torch.uint8)
    return round_to_uint8(pixels)


def _find_scale(image: np.ndarray | torch.Tensor, where: str) -> float:
    """How many pixels of its file one pixel of an image measures: 1 where it is not known to be resized.

    Raises:
        ValueError: if it was resized otherwise along rows than along columns.
    """
    if not isinstance(image, MetaTensor):
        return 1.0
    down, right = image.pixdim[:2].tolist()
    if abs(down - right) > _MAX_STRETCH * max(down, right):
        raise ValueError(
            f"{where}: its affine says that a pixel is {down:g} high and {right:g} wide; resize the image by the same "
            "factor along both axes."
        )
    return (down + right) / 2


def _pair(values: Sequence[int]) -> tuple[int, int]:
    first, second = values
    return int(first), int(second)


class FindTissue(Transform):
    """Find where the tissue of a slide lies, so that networks look nowhere else.

    :class:`~monai_jsma.networks.ZoomNet` zooms only into regions that hold some,
    :class:`~monai_jsma.networks.JSMANet` and :class:`~monai_jsma.networks.AttentionMIL` read only such patches.

    It comes before the random transforms: tissue turns with its slide, and is that of the slide as it is stained.
    """

    backend = _BACKENDS

    def __call__(
        self, pyramid: Pyramid, mask: str | os.PathLike[str] | None = None, mask_frame: str | None = None
    ) -> Pyramid:
        """The pyramid, which knows its tissue.

        Args:
            pyramid: the slide.
            mask: file of a mask that takes the place of the search: an image in which tissue is not 0, or outlines.
            mask_frame: the corner that the mask counts from, ``"bounds"`` (of the scanned part, as in QuPath) or
                ``"canvas"`` (of level 0); None: that of its tool.

        Raises:
            FileNotFoundError: if there is no such mask.
            ValueError: if the slide has no tissue, or the mask does not fit it.
        """
        return pyramid.with_tissue(find_tissue(pyramid, mask=mask, mask_frame=mask_frame))


class LabelsToMultiHot(Transform):
    """Turn the list of the classes of an image into 1 (present) or 0 (absent) for each class (multi-label).

    Args:
        num_classes: number of classes.
    """

    backend = _BACKENDS

    def __init__(self, num_classes: int) -> None:
        self.num_classes = num_classes

    def __call__(self, label: Sequence[int]) -> torch.Tensor:
        """float32 ``(classes,)``.

        Raises:
            ValueError: if the label is no list of classes.
        """
        are_classes = isinstance(label, list | tuple) and all(index in range(self.num_classes) for index in label)
        if not are_classes:
            raise ValueError(
                f"the label of multi-label must list numbers of classes below {self.num_classes}, but is {label!r}."
            )
        return torch.from_numpy(make_multi_hot(label, self.num_classes))


class NormalizePyramidStain(Transform):
    """Take hematoxylin and eosin of an image to those of a reference, the same over all of it (Macenko et al. 2009).

    The colors of the two stains, and how dense they are, are estimated as by MONAI's ``ExtractHEStains``, from up to
    32 patches of the finest magnification that hold tissue, evenly over the image or the region that was loaded.
    Thumbnail and patches are then mapped pixel by pixel. It comes after :class:`FindTissue`, if that is used, and
    before the random transforms. Networks are told of it by ``stain_norm``.

    Args:
        method: ``"macenko"``.

    Raises:
        ValueError: for another method.
    """

    backend = _BACKENDS

    def __init__(self, method: str = MACENKO) -> None:
        if method != MACENKO:
            raise ValueError(f"unknown stain normalization {method!r}; choose '{MACENKO}', or leave it out.")

    def __call__(self, pyramid: Pyramid) -> Pyramid:
        """The pyramid with its stains normalized.

        Raises:
            ValueError: if it has no tissue, or two stains cannot be told apart in it.
        """
        pixels = _read_tissue(pyramid)
        try:
            normalization = StainNormalization.fit(pixels)
        except (ValueError, np.linalg.LinAlgError) as error:
            raise ValueError(
                f"{pyramid.path}: its stains cannot be normalized: {error} Take it out of the datalist if it is blank "
                "or not of hematoxylin and eosin, or leave the normalization out."
            ) from error
        return pyramid.normalized(normalization)


def _read_tissue(pyramid: Pyramid) -> np.ndarray:
    """Patches of tissue as they are stored, below each other: ``uint8`` ``(rows, patch_size, 3)``."""
    as_stored = pyramid.oriented(0).stained(None).normalized(None)
    if as_stored.tissue is None:
        as_stored = as_stored.with_tissue(find_tissue(as_stored))
    cells = np.flatnonzero(as_stored.tissue_cells())
    finest = cells[cells >= as_stored.geometry.offsets[-2]]
    places = np.linspace(0, len(finest) - 1, min(_NUM_SAMPLES, len(finest)))
    patches = as_stored.read(finest[places.round().astype(int)].tolist())  # (n, 3, patch_size, patch_size)
    return patches.transpose(0, 2, 3, 1).reshape(-1, patches.shape[-1], 3)


class PyramidThumbnail(Transform):
    """The thumbnail of a pyramid: the whole image averaged to one size.

    Args:
        size: height and width of the thumbnail; images of another shape are stretched, and so is their attention.
    """

    backend = _BACKENDS

    def __init__(self, size: Sequence[int]) -> None:
        self.size = _pair(size)

    def __call__(self, pyramid: Pyramid) -> MetaTensor:
        """``uint8`` of shape ``(3, height, width)``, with the file's name and spacing as metadata.

        Its ``affine`` takes (row, column) of the thumbnail to (row, column) in level-0 pixels of the file, whatever the
        region and orientation. As everywhere in MONAI whole numbers are the centers of pixels, so (0, 0) is the center
        of the first pixel, both of the thumbnail and of level 0.
        """
        meta = {
            "filename_or_obj": pyramid.path,
            "mpp": pyramid.mpp,
            "mpp_source": pyramid.mpp_source,
            "location": np.asarray(pyramid.origin),
            "size": np.asarray(pyramid.geometry.size),
            "orientation": pyramid.orientation,
        }
        pixels = torch.from_numpy(pyramid.thumbnail(self.size))
        return MetaTensor(pixels, affine=_find_affine(pyramid, self.size), meta=meta)


def _find_affine(pyramid: Pyramid, size: tuple[int, int]) -> torch.Tensor:
    """Where the pixels of a thumbnail of ``size`` lie in level 0 of the file, ``(4, 4)``, centers to centers."""
    rows, cols = size
    orientation = np.eye(4)  # from the thumbnail as it is seen to the thumbnail as it is stored
    if pyramid.orientation & 2:
        orientation[0, 0] = -1
        orientation[0, 3] = rows - 1
    if pyramid.orientation & 1:
        orientation[1, 1] = -1
        orientation[1, 3] = cols - 1
    if pyramid.orientation & 4:
        orientation[[0, 1]] = orientation[[1, 0]]

    stored_rows, stored_cols = oriented_size(size, pyramid.orientation)
    height, width = pyramid.stored_geometry.size
    down = height / stored_rows
    right = width / stored_cols
    row, col = pyramid.origin
    placement = np.diag([down, right, 1.0, 1.0])
    placement[0, 3] = row + (down - 1) / 2
    placement[1, 3] = col + (right - 1) / 2
    return torch.from_numpy(placement @ orientation)


class RandPyramidOrientation(RandomizableTransform):
    """One of the eight orientations of a square at random; of the four that keep height and width if it is no square.

    Args:
        prob: probability that the transform acts at all.
    """

    backend = _BACKENDS

    def __init__(self, prob: float = 1.0) -> None:
        super().__init__(prob)
        self._orientation = 0

    def randomize(self, data: Any = None) -> None:
        """Draw one of the eight; how many of them an image allows is not known yet."""
        super().randomize(None)
        self._orientation = int(self.R.randint(8))

    def __call__(self, pyramid: Pyramid, randomize: bool = True) -> Pyramid:
        """The pyramid in the drawn orientation."""
        if randomize:
            self.randomize()
        if not self._do_transform:
            return pyramid
        height, width = pyramid.geometry.size
        if height == width:
            return pyramid.oriented(self._orientation)
        reversals = self._orientation & 3
        transposed = pyramid.orientation & 4  # stays as it is
        return pyramid.oriented(reversals | transposed)


class RandPyramidStain(RandomizableTransform):
    """Random amounts of hematoxylin, eosin and residual, the same over all of an image.

    Args:
        scale: each amount is multiplied by 1 plus a uniform number in [-scale, scale].
        shift: each amount is shifted by a uniform number in [-shift, shift], in optical density.
        prob: probability that the transform acts at all.
    """

    backend = _BACKENDS

    def __init__(self, scale: float = 0.1, shift: float = 0.01, prob: float = 1.0) -> None:
        super().__init__(prob)
        self.scale = scale
        self.shift = shift
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
    """A part of the image at random, so that the patches of every epoch are new ones at the same magnifications.

    Args:
        min_scale: height and width are each multiplied by a uniform number in [min_scale, 1], and rounded to whole
            pixels of the coarsest magnification, on which the part begins too.
        prob: probability that the transform acts at all.

    Raises:
        ValueError: if ``min_scale`` is outside (0, 1].
    """

    backend = _BACKENDS

    def __init__(self, min_scale: float = 0.7, prob: float = 1.0) -> None:
        super().__init__(prob)
        if not 0 < min_scale <= 1:
            raise ValueError(f"min_scale must be in (0, 1], but got {min_scale}.")
        self.min_scale = min_scale
        self._scales = np.ones(2)
        self._places = np.zeros(2)

    def randomize(self, data: Any = None) -> None:
        """Draw the share of rows and columns, and where they begin."""
        super().randomize(None)
        self._scales = self.R.uniform(self.min_scale, 1, 2)
        self._places = self.R.uniform(0, 1, 2)

    def __call__(self, pyramid: Pyramid, randomize: bool = True) -> Pyramid:
        """The drawn part of the pyramid."""
        if randomize:
            self.randomize()
        if not self._do_transform:
            return pyramid
        stored = pyramid.stored_geometry
        # Whole pixels of the coarsest magnification: patches that need no resampling, or only means of boxes, still do.
        unit = max(1, round(stored.spacings[0] / stored.mpp))
        row, height = _crop_axis(stored.size[0], unit, scale=self._scales[0], place=self._places[0])
        col, width = _crop_axis(stored.size[1], unit, scale=self._scales[1], place=self._places[1])
        return pyramid.cropped((row, col), (height, width))


def _crop_axis(length: int, unit: int, *, scale: float, place: float) -> tuple[int, int]:
    """Start and length of a crop along one axis, in pixels: multiples of ``unit`` where the axis is long enough."""
    num_units = max(1, round(length * scale / unit))
    cropped = min(length, num_units * unit)
    num_starts = (length - cropped) // unit + 1
    start = int(num_starts * place) * unit
    return start, cropped
