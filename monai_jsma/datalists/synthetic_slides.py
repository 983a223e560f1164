# Copyright (c) the monai_jsma contributors.
# SPDX-License-Identifier: Apache-2.0
"""Whole slides with a known answer: which regions determine the class.

A slide is a square of regions of 256 x 256 pixels of 0.5 um. Some are tissue, in blobs, the others are glass. A region
of tissue is one of three kinds (:mod:`monai_jsma.datalists.synthetic` says what tints and textures are):

- *plain*: tissue without a tint;
- *informative*: one cell of it has a tint, and textures that show the class of the slide;
- a *distractor*: one cell of it has a tint, and no textures.

Textures are exactly invisible at coarser magnifications, and an informative region is made of a distractor by adding
them. So a thumbnail of the slide shows where the tints are, but it is the same, to the last bit, whichever of the
tinted regions are informative, and whatever the class is. All but the textures is drawn before the class is used.

Of each kind a slide has a number of different regions, which are repeated. Equal tiles are stored once, so that a slide
of 100,000 pixels a side takes a few megabytes. Beside each slide lies a GeoJSON file with the boxes of its informative
regions and of its distractors.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from monai_jsma._io import file_sha256, replace_file, write_whole
from monai_jsma.datalists.schema import save_datalist
from monai_jsma.datalists.synthetic import (
    CLASS_NAMES,
    GEOMETRY,
    MAGNIFICATIONS,
    SPLITS,
    add_textures,
    draw_tissue,
    list_layouts,
)
from monai_jsma.geometry import Box
from monai_jsma.slides.shared_tiles import SharedLevel, write_shared_tiles
from monai_jsma.slides.tiled import TILE

__all__ = ["KINDS", "SlideSettings", "SyntheticSlide", "make_slide", "make_slides", "rearrange_slide", "write_slide"]

KINDS = ("glass", "plain", "distractor", "informative")
_GLASS, _PLAIN, _DISTRACTOR, _INFORMATIVE = range(len(KINDS))

_WHITE = 245  # of glass
_REDUCTION = 16  # of the level that a thumbnail is made of; a tile of it shows 16 x 16 regions
_COARSEST = 64  # reduction of one more level, where it fills a tile
_MAX_SIDE = 512
_COLORS = {"informative": [213, 94, 0], "distractor": [0, 114, 178]}  # QuPath refuses a class without a color
_NUM_WAVES = 8


@dataclass(frozen=True, kw_only=True)
class SlideSettings:
    """What slides are made of.

    Args:
        side: number of regions along each side, 2 to 512; a region has 256 pixels.
        tissue: share of the regions that is tissue.
        informative: share of the tissue that is informative; at least one region is. As many are distractors.
        level: the true magnification, 0 (50X) to 2 (200X).
        variants: number of different regions of each kind.

    Raises:
        ValueError: if a number is out of range.
    """

    side: int = 16
    tissue: float = 0.5
    informative: float = 0.1
    level: int = 1
    variants: int = 16

    def __post_init__(self) -> None:
        if not isinstance(self.side, int) or not 2 <= self.side <= _MAX_SIDE:
            raise ValueError(f"a slide must have 2 to {_MAX_SIDE} regions along a side, but got {self.side}.")
        if not 0 < self.tissue <= 1:
            raise ValueError(f"the share of tissue must be above 0 and at most 1, but got {self.tissue}.")
        if not 0 < self.informative <= 0.5:
            raise ValueError(
                f"the share of informative regions must be above 0 and at most 0.5, because as many are distractors, "
                f"but got {self.informative}."
            )
        if self.level not in range(len(MAGNIFICATIONS)) or self.variants < 1:
            raise ValueError(f"level must be 0, 1 or 2 and variants at least 1, but got {self}.")
        if self.num_tissue < 2:
            raise ValueError(
                f"{self.side} x {self.side} regions of which {self.tissue} are tissue have no room for an informative "
                "one and a distractor: give more."
            )

    @property
    def num_tissue(self) -> int:
        """Number of regions of tissue."""
        return round(self.tissue * self.side**2)

    @property
    def num_informative(self) -> int:
        """Number of informative regions, and of distractors."""
        number = round(self.informative * self.num_tissue)
        return max(1, min(number, self.num_tissue // 2))


@dataclass(frozen=True, kw_only=True, eq=False)
class SyntheticSlide:
    """A slide and its answer.

    Args:
        label: index of the class.
        kinds: kind of each region, an index of :data:`KINDS`: int ``(side, side)``.
        numbers: number of the picture of each region: int ``(side, side)``.
        pictures: the different regions, glass first: ``uint8`` ``(pictures, 256, 256, 3)``.
    """

    label: int
    kinds: np.ndarray
    numbers: np.ndarray
    pictures: np.ndarray


# ------------------------------------------------------------------------------------------------------- one slide


def make_slide(label: int, seed: tuple[int, ...], settings: SlideSettings) -> SyntheticSlide:
    """Make a slide whose class is determined by its informative regions.

    Args:
        label: index of the class, 0 to 3.
        seed: random seed of the slide.
        settings: what it is made of.

    Raises:
        ValueError: for an unknown label.

    Example::

        >>> slide = make_slide(1, (0,), SlideSettings(side=16, informative=0.1))
        >>> np.bincount(slide.kinds.ravel()).tolist()
        [128, 102, 13, 13]
    """
    layouts = _list_visible_layouts(label)
    rng = np.random.default_rng((*seed, 0))
    kinds, numbers = _arrange_regions(rng, settings)

    of_textures = np.random.default_rng((*seed, 1))
    glass = np.full((1, TILE, TILE, 3), _WHITE, np.uint8)
    plain = glass.repeat(settings.variants, axis=0)
    distractors = plain.copy()
    informative = plain.copy()
    for i in range(settings.variants):
        plain[i] = draw_tissue(rng, [])
        cell = int(rng.integers(GEOMETRY.offsets[settings.level], GEOMETRY.offsets[settings.level + 1]))
        picture = draw_tissue(rng, [cell])
        distractors[i] = picture
        layout = layouts[of_textures.integers(len(layouts))]
        add_textures(picture, cell, layout=layout, rng=of_textures)
        informative[i] = picture

    pictures = np.concatenate([glass, plain, distractors, informative])
    return SyntheticSlide(label=label, kinds=kinds, numbers=numbers, pictures=pictures)


def _list_visible_layouts(label: int) -> np.ndarray:
    """The layouts of a class that have a texture: one of the first class has none, and would make a distractor."""
    layouts = list_layouts(label)
    return layouts[layouts.any(axis=(1, 2, 3))]


def rearrange_slide(slide: SyntheticSlide, seed: tuple[int, ...], settings: SlideSettings) -> SyntheticSlide:
    """The slide of a seed with another share of informative regions: what it is made of need not be drawn again.

    Args:
        slide: the slide that :func:`make_slide` made with this seed, and settings that differ in the share alone.
        seed: random seed of the slide.
        settings: what the new one is made of.
    """
    rng = np.random.default_rng((*seed, 0))
    kinds, numbers = _arrange_regions(rng, settings)
    return replace(slide, kinds=kinds, numbers=numbers)


def _arrange_regions(rng: np.random.Generator, settings: SlideSettings) -> tuple[np.ndarray, np.ndarray]:
    """Kind and number of the picture of each region; as many random numbers are drawn for any share."""
    kinds = _place_kinds(rng, settings)
    variant = rng.integers(settings.variants, size=kinds.shape)
    numbers = np.where(kinds == _GLASS, 0, 1 + (kinds - 1) * settings.variants + variant)
    return kinds, numbers


def _place_kinds(rng: np.random.Generator, settings: SlideSettings) -> np.ndarray:
    """The kind of each region: tissue where a smooth random field is highest, and its tinted regions anywhere in it."""
    height = _draw_field(rng, settings.side)
    by_height = np.argsort(-height, axis=None, kind="stable")
    tissue = rng.permutation(by_height[: settings.num_tissue])

    kinds = np.full(settings.side**2, _GLASS)
    kinds[tissue] = _PLAIN
    number = settings.num_informative
    kinds[tissue[:number]] = _INFORMATIVE
    kinds[tissue[number : 2 * number]] = _DISTRACTOR
    return kinds.reshape(settings.side, settings.side)


def _draw_field(rng: np.random.Generator, side: int) -> np.ndarray:
    """Long random waves ``(side, side)``, whose heights are blobs."""
    position = np.arange(side) * (2 * np.pi / side)
    field = np.zeros((side, side))
    for _ in range(_NUM_WAVES):
        down, right = rng.uniform(-3, 3, size=2)
        phase = rng.uniform(0, 2 * np.pi)
        field += np.cos(down * position[:, None] + right * position + phase)
    return field


def write_slide(path: str | Path, slide: SyntheticSlide) -> None:
    """Write a slide as a tiled pyramid, all of it or nothing.

    Its levels are reduced by 1, 16 and, from 64 regions a side on, 64: exact means, rounded once.

    Args:
        path: the file.
        slide: the slide.
    """
    side = len(slide.numbers)
    size = (side * TILE, side * TILE)
    used, numbers = np.unique(slide.numbers, return_inverse=True)
    levels = [SharedLevel(size, numbers.reshape(side, side), slide.pictures[used])]
    for reduction in (_REDUCTION, _COARSEST):
        if reduction == _REDUCTION or side >= reduction:
            levels.append(_reduce(slide, reduction))
    with replace_file(path) as unfinished:
        write_shared_tiles(unfinished, levels, mpp=GEOMETRY.mpp)


def _reduce(slide: SyntheticSlide, reduction: int) -> SharedLevel:
    """A coarser level; its tiles of glass alone are stored once."""
    side = len(slide.numbers)
    pixels = side * TILE // reduction
    per_tile = reduction  # regions along a tile
    count = -(-side // per_tile)
    tissue = slide.kinds != _GLASS
    numbers = np.zeros((count, count), np.int64)
    places = []
    for row, col in np.ndindex(count, count):
        rows = slice(row * per_tile, (row + 1) * per_tile)
        cols = slice(col * per_tile, (col + 1) * per_tile)
        window = (rows, cols)
        if tissue[window].any():
            places.append(window)
            numbers[row, col] = len(places)
    pictures = _average(slide.pictures, reduction)

    def make_tiles() -> Iterator[np.ndarray]:
        yield _make_glass()
        for window in places:
            shown = slide.numbers[window]
            yield _join_regions(pictures[shown])

    if numbers.all():  # no place is glass alone
        numbers -= 1
        return SharedLevel((pixels, pixels), numbers, list(make_tiles())[1:])
    return SharedLevel((pixels, pixels), numbers, make_tiles())


def _average(pictures: np.ndarray, reduction: int) -> np.ndarray:
    """Means of ``reduction`` x ``reduction`` pixels of each picture, rounded."""
    side = TILE // reduction
    blocks = pictures.reshape(-1, side, reduction, side, reduction, 3)
    means = blocks.mean(axis=(2, 4), dtype=np.float64)
    return np.rint(means).astype(np.uint8)


def _join_regions(regions: np.ndarray) -> np.ndarray:
    """A tile of regions ``(rows, columns, height, width, 3)``; glass where they do not fill it."""
    rows, cols, height, width, _ = regions.shape
    bottom = rows * height
    right = cols * width
    row_by_row = regions.swapaxes(1, 2)
    tile = _make_glass()
    tile[:bottom, :right] = row_by_row.reshape(bottom, right, 3)
    return tile


def _make_glass() -> np.ndarray:
    return np.full((TILE, TILE, 3), _WHITE, np.uint8)


# --------------------------------------------------------------------------------------------------------- a data set


def make_slides(
    folder: str | Path,
    *,
    num_train: int = 320,
    num_validation: int = 80,
    num_test: int = 80,
    seed: int = 0,
    num_classes: int = 2,
    settings: SlideSettings | None = None,
) -> Path:
    """Write slides, their annotations and ``datalist.json`` into a folder and return the path of the datalist.

    The classes take turns. An item holds ``image``, ``label``, ``group``, ``sha256``, ``annotations`` (the GeoJSON
    file) and ``num_informative``. The same arguments write the same bytes, and no number of slides changes another.

    Args:
        folder: folder of the slides.
        num_train: number of training slides.
        num_validation: number of validation slides.
        num_test: number of test slides.
        seed: random seed of all slides.
        num_classes: number of classes, 2 to 4.
        settings: what the slides are made of.

    Raises:
        ValueError: if a number is out of range.
    """
    settings = settings or SlideSettings()
    counts = dict(zip(SPLITS, (num_train, num_validation, num_test), strict=True))
    if min(counts.values()) < 1 or not 2 <= num_classes <= len(CLASS_NAMES):
        raise ValueError(
            f"Each split needs at least 1 slide and 2 to {len(CLASS_NAMES)} classes, but got {counts}, {num_classes}."
        )
    if seed < 0:
        raise ValueError(f"the random seed must be at least 0, but is {seed}.")
    splits = {}
    for number, (split, count) in enumerate(counts.items()):
        (Path(folder) / split).mkdir(parents=True, exist_ok=True)
        items = []
        for i in range(count):
            slide = make_slide(i % num_classes, (seed, number, i), settings)
            items.append(_write_item(Path(folder), f"{split}/{i:04d}", slide))
        splits[split] = items
    content = {
        "name": "monai_jsma synthetic slides",
        "labels": {str(label): name for label, name in enumerate(CLASS_NAMES[:num_classes])},
        "mpp": GEOMETRY.mpp,
        "mpp_source": "given",
        "magnifications": list(MAGNIFICATIONS),
        "patch_size": GEOMETRY.patch_size,
        "true_magnification": GEOMETRY.names[settings.level],
        "settings": {"seed": seed, "num_classes": num_classes, "num_slides": counts, **asdict(settings)},
        **splits,
    }
    return save_datalist(content, Path(folder) / "datalist.json")


def _write_item(folder: Path, name: str, slide: SyntheticSlide) -> dict[str, Any]:
    image = f"{name}.tif"
    annotations = f"{name}.geojson"
    write_slide(folder / image, slide)
    collection = {"type": "FeatureCollection", "features": _make_features(slide.kinds)}
    write_whole(folder / annotations, json.dumps(collection) + "\n")
    return {
        "image": image,
        "label": slide.label,
        "group": name,
        "sha256": file_sha256(folder / image),
        "annotations": annotations,
        "num_informative": int((slide.kinds == _INFORMATIVE).sum()),
    }


def _make_features(kinds: np.ndarray) -> list[dict[str, Any]]:
    """The boxes of informative regions and distractors, as QuPath reads them: corners are (x, y)."""
    features = []
    for row, col in np.argwhere(kinds >= _DISTRACTOR).tolist():
        name = KINDS[kinds[row, col]]
        box = Box(row * TILE, col * TILE, TILE, TILE)
        features.append(
            {
                "type": "Feature",
                "geometry": {"type": "Polygon", "coordinates": [box.ring]},
                "properties": {
                    "objectType": "annotation",
                    "classification": {"name": name, "color": _COLORS[name]},
                },
            }
        )
    return features
