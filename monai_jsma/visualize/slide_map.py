# Copyright (c) the monai_jsma contributors.
# SPDX-License-Identifier: Apache-2.0
"""A whole slide as one picture: its tissue, what was predicted where, and where the network looked.

Of a slide that was predicted as regions it shows the predicted class of each, and the attention of each magnification
in all of them. Of a slide that a network zoomed into it shows the attention of each stage, that of each magnification
in the regions that were looked into, and the patches that were read.
"""

from __future__ import annotations

import math
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from matplotlib.colors import to_rgb
from PIL import Image, ImageDraw

from monai_jsma.data.pyramid import Pyramid
from monai_jsma.datalists.regions import Area
from monai_jsma.geometry import Box
from monai_jsma.predictions.evidence import InnerPatch
from monai_jsma.predictions.records import PredictionRecord
from monai_jsma.visualize.blocks import (
    GAP,
    TEXT_SIZE,
    TITLE_SIZE,
    blend_colors,
    choose_patch_side,
    draw_color_scale,
    draw_frame,
    draw_patch_tile,
    frame_page,
    make_scale_bar,
    make_swatch,
    measure_label,
    outline_box,
    put_beside,
    put_in_rows,
    put_swatch,
    resize_pixels,
    stack_images,
    write_label,
    write_lines,
)
from monai_jsma.visualize.canvas import format_length, make_gray, pick_class_color, pick_color
from monai_jsma.visualize.captions import describe_answer, describe_count
from monai_jsma.visualize.patches import find_free_spot, format_weight
from monai_jsma.visualize.record_figures import check_areas, open_file
from monai_jsma.visualize.slide_layers import MapLayer, find_scale, list_layers, paint_grid

__all__ = ["draw_slide_map", "is_slide"]

# All lengths in pixels.
_PANEL_WIDTH = 960
_CONTENT_WIDTH = 2 * _PANEL_WIDTH + GAP
_WIDTH = _CONTENT_WIDTH + 2 * GAP
_MAX_PANEL_HEIGHT = 1000
_MIN_OUTLINED = 8  # of a region
_MIN_BOX = 26  # of a patch, so that its color is seen
_BLACK = (0, 0, 0)
_WHITE = (255, 255, 255)
_KINDS = {"region": "attention of a region", "cell": "attention of a cell"}  # each has one scale of colors
_ANNOTATION = "#0026ff"  # neither a color of H&E nor of the attention
_FAINTEST = 0.25  # opacity of a class that is as probable as by chance
_DENSEST = 0.75  # of one that is certain


@dataclass(frozen=True, eq=False)
class _Panel:
    """One picture of the page and what stands above it."""

    caption: Image.Image
    image: Image.Image


@dataclass(frozen=True, eq=False)
class _View:
    """What all panels show.

    Args:
        box: the part of the file, in level-0 pixels.
        tissue: its pixels, as large as a panel.
        gray: the same without color.
    """

    box: Box
    tissue: Image.Image
    gray: Image.Image

    def place(self, box: Box) -> Box:
        """A box of the file, in level-0 pixels, in pixels of the panel; what reaches beyond the panel is cut off."""
        height = self.tissue.height
        width = self.tissue.width
        down = height / self.box.height
        across = width / self.box.width
        from_top = box.row - self.box.row
        from_left = box.col - self.box.col
        top = from_top * down
        left = from_left * across
        bottom = (from_top + box.height) * down
        right = (from_left + box.width) * across
        return _span(max(0.0, top), max(0.0, left), min(height, bottom), min(width, right))


def _span(top: float, left: float, bottom: float, right: float) -> Box:
    """The box between four edges."""
    return Box(top, left, bottom - top, right - left)


def is_slide(records: Sequence[PredictionRecord]) -> bool:
    """Whether the records of a file are regions of it, or a slide that was zoomed into: then it has a map.

    Args:
        records: all records of the file.
    """
    first = records[0]
    is_region = len(records) > 1 or any(first.location)
    return is_region or first.inner_patches is not None


def draw_slide_map(
    records: Sequence[PredictionRecord],
    base_dir: str | os.PathLike[str] = "",
    *,
    areas: Sequence[Area] = (),
    max_patches: int = 8,
) -> np.ndarray:
    """The map of one slide.

    Args:
        records: all records of the slide, of one run.
        base_dir: folder that a relative path starts at.
        areas: annotated areas to outline; those that count from the bounds of the slide are moved to the canvas.
        max_patches: maximum number of patches whose pixels are shown, where the slide was zoomed into.

    Returns:
        uint8 ``(height, 1980, 3)``.

    Raises:
        FileNotFoundError: if the file is gone.
        SlideError: if the file cannot be read, or has changed since the prediction.
        ValueError: if an area lies outside the file.
    """
    first = records[0]
    slide = open_file(records, base_dir)
    check_areas(areas, slide)
    view = _read_view(slide)
    layers = list_layers(records)
    patches = list(first.inner_patches or ())

    if first.inner_patches is None:
        panels = [_draw_tissue(view, slide, areas), _draw_classes(view, records)]
    else:
        panels = [_draw_patches(view, slide, record=first, areas=areas, max_patches=max_patches)]
    scales = {}
    for kind in _KINDS:
        of_kind = [layer for layer in layers if layer.kind == kind]
        scales[kind] = find_scale(of_kind)
    for layer in layers:
        end = scales[layer.kind].end
        panels.append(_draw_layer(view, layer, end))

    title = _write_title(records)
    blocks = [write_lines(title, width=_CONTENT_WIDTH, size=TITLE_SIZE)]
    for number in range(0, len(panels), 2):
        pair = panels[number : number + 2]
        blocks.append(_put_panels(pair))
    for kind, text in _KINDS.items():
        if scales[kind].end > 0:
            blocks.append(draw_color_scale(scales[kind], width=_CONTENT_WIDTH, text=text))
    if patches:
        colors = _pick_colors(first)
        blocks.append(_draw_strip(slide, patches, colors=colors, max_patches=max_patches))
    page = frame_page(blocks, _WIDTH)
    return np.asarray(page)


def _write_title(records: Sequence[PredictionRecord]) -> list[str]:
    """The file, the answer, and from how much it was made."""
    first = records[0]
    name = os.path.basename(first.file)
    labels = {record.label for record in records}
    label = labels.pop() if len(labels) == 1 else None
    probabilities = [record.probabilities for record in records]
    mean = np.mean(probabilities, axis=0)
    whole = replace(first.evidence, scores=mean, label=label)
    answer = describe_answer(whole, first.classes)

    numbers_read = [record.patches_read for record in records]
    patches = describe_count(sum(numbers_read), "patch", "patches")
    if first.inner_patches is None:
        regions = describe_count(len(records), "region")
        return [name, answer, f"mean of {regions}, {patches} read"]
    num_regions = first.regions_looked_at or 0
    regions = describe_count(num_regions, "region")
    certainty = _describe_certainty(first)
    return [name, answer, f"{regions} looked at, {patches} read", *certainty]


def _describe_certainty(record: PredictionRecord) -> list[str]:
    """How sure it is that all patches would give the same answer, where that is known."""
    if record.certified is None:
        return []
    if record.confidence is not None:
        percent = 100 * record.confidence
        return [f"the answer of all patches, at a confidence of {percent:.4g} %"]
    if record.certified:
        return ["no other patch can change the answer"]
    return ["other patches may change the answer"]


def _read_view(slide: Pyramid) -> _View:
    """The image of a slide, without the canvas around it, at the size of a panel."""
    box = slide.bounds or Box(0, 0, *slide.geometry.size)
    row, col, height, width = map(int, box)
    to_width = _PANEL_WIDTH / width
    to_height = _MAX_PANEL_HEIGHT / height
    scale = min(to_width, to_height)
    num_rows = max(1, round(height * scale))
    num_cols = max(1, round(width * scale))

    image = slide.cropped((row, col), (height, width))
    read_size = (min(height, num_rows), min(width, num_cols))  # a small image is enlarged when it is drawn
    thumbnail = image.thumbnail(read_size, keep=False)
    size = (num_rows, num_cols)
    tissue = resize_pixels(thumbnail, size)
    gray = resize_pixels(make_gray(thumbnail), size)
    return _View(box, tissue, gray)


# -------------------------------------------------------------------------------------------------------------- panels


def _put_panels(panels: Sequence[_Panel]) -> Image.Image:
    """Panels beside each other, their images at one height."""
    height = max(panel.caption.height for panel in panels)
    columns = []
    for panel in panels:
        free_height = height - panel.caption.height
        free = Image.new("RGB", (_PANEL_WIDTH, free_height), _WHITE)
        column = [free, panel.caption, panel.image]
        columns.append(stack_images(column, gap=6))
    return put_beside(columns)


def _draw_tissue(view: _View, slide: Pyramid, areas: Sequence[Area]) -> _Panel:
    """The tissue with its annotations, below a scale bar."""
    image = view.tissue.copy()
    caption = _draw_areas(image, view, slide, areas)
    caption.append(_make_scale_bar(view, slide))
    return _Panel(stack_images(caption), image)


def _make_scale_bar(view: _View, slide: Pyramid) -> Image.Image:
    width_um = view.box.width * slide.mpp
    return make_scale_bar(width_um, view.tissue.width)


def _draw_areas(image: Image.Image, view: _View, slide: Pyramid, areas: Sequence[Area]) -> list[Image.Image]:
    """Outline annotated areas; returns the line that names them."""
    if not areas:
        return []
    names = set()
    for area in areas:
        names.add(area.names[0] if area.names else "no class")
        on_canvas = area.on_canvas(slide.bounds)
        for ring in (on_canvas.ring, *on_canvas.holes):
            _draw_ring(image, view, ring)
    listed = ", ".join(sorted(names))
    return [put_swatch(make_swatch(_ANNOTATION), f"annotated: {listed}", _PANEL_WIDTH)]


def _draw_ring(image: Image.Image, view: _View, ring: np.ndarray) -> None:
    """Draw an outline of (row, column) in level-0 pixels of the file."""
    down = image.height / view.box.height
    across = image.width / view.box.width
    rows = (ring[:, 0] - view.box.row) * down
    cols = (ring[:, 1] - view.box.col) * across
    points = list(zip(cols.tolist(), rows.tolist(), strict=True))
    closed = [*points, points[0]]
    draw = ImageDraw.Draw(image)
    draw.line(closed, fill=_WHITE, width=10, joint="curve")
    draw.line(closed, fill=_ANNOTATION, width=5, joint="curve")


def _draw_classes(view: _View, records: Sequence[PredictionRecord]) -> _Panel:
    """The predicted class of each region over the gray tissue, below a legend; wrong ones are crossed out."""
    boxes = [Box(*record.location, *record.size) for record in records]
    places = [view.place(box) for box in boxes]
    gray = np.asarray(view.gray)
    pixels = gray.copy()
    for record, place in zip(records, places, strict=True):
        rows, cols = _find_pixels(place)
        below = gray[rows, cols]  # neighbors overlap: the later one is on top
        pixels[rows, cols] = _tint(below, record)
    image = Image.fromarray(pixels)

    num_wrong = 0
    for record, place in zip(records, places, strict=True):
        if min(place.width, place.height) >= _MIN_OUTLINED:
            outline_box(image, place, _BLACK, width=1)
        if record.is_wrong:
            num_wrong += 1
            _cross_out(image, place)
    legend = _write_legend(records, num_wrong)
    return _Panel(legend, image)


def _find_pixels(place: Box) -> tuple[slice, slice]:
    """Rows and columns of a box, at least one of each."""
    top = round(place.row)
    left = round(place.col)
    bottom = max(top + 1, round(place.bottom))
    right = max(left + 1, round(place.right))
    return slice(top, bottom), slice(left, right)


def _tint(gray: np.ndarray, record: PredictionRecord) -> np.ndarray:
    """The pixels of a region in the color of its predicted class."""
    if record.main_class is None:
        return gray
    color = to_rgb(pick_class_color(record.main_class))
    opacity = _find_opacity(record)
    above = 255 * np.array(color) * opacity
    tinted = (1 - opacity) * gray + above
    return tinted.round().astype(np.uint8)


def _write_legend(records: Sequence[PredictionRecord], num_wrong: int) -> Image.Image:
    """What the colors and crosses of the classes mean."""
    lines = ["predicted class, paler where it is less sure"]
    if records[0].thresholds is not None:
        lines = ["the most probable class that is predicted, paler where it is less sure; gray: none"]
    if num_wrong:
        lines.append(f"crossed out: wrong, {num_wrong} of {len(records)}")
    counts = Counter(record.main_class for record in records if record.main_class is not None)
    entries = []
    for index, count in sorted(counts.items()):
        name = records[0].classes[index]
        entries.append(_make_class_entry(name, index, count))
    text = write_lines(lines, width=_PANEL_WIDTH)
    rows = put_in_rows(entries, _PANEL_WIDTH)
    return stack_images([text, rows], gap=6)


def _find_opacity(record: PredictionRecord) -> float:
    """Opacity of the predicted class: from one that is as probable as by chance to one that is certain."""
    index = record.main_class
    assert index is not None
    chance = 1 / len(record.classes) if record.thresholds is None else record.thresholds[index]
    if chance == 1:
        return _DENSEST
    sureness = (record.probabilities[index] - chance) / (1 - chance)
    shown = min(max(sureness, 0.0), 1.0)
    return _FAINTEST + (_DENSEST - _FAINTEST) * shown


def _cross_out(image: Image.Image, place: Box) -> None:
    margin = min(place.width, place.height) / 5
    top = place.row + margin
    left = place.col + margin
    bottom = place.bottom - margin
    right = place.right - margin
    draw = ImageDraw.Draw(image)
    for width, color in ((7, _WHITE), (3, _BLACK)):
        draw.line((left, top, right, bottom), fill=color, width=width)
        draw.line((left, bottom, right, top), fill=color, width=width)


def _make_class_entry(name: str, index: int, count: int) -> Image.Image:
    """A line of the legend: the color of a class, its name, and how many regions have it."""
    swatch = Image.new("RGB", (TEXT_SIZE, TEXT_SIZE), pick_class_color(index))
    whole = Box(0, 0, TEXT_SIZE, TEXT_SIZE)
    outline_box(swatch, whole, _BLACK, width=2)
    regions = describe_count(count, "region")
    entry = put_swatch(swatch, f"{name}: {regions}")
    if entry.width > _PANEL_WIDTH:
        entry = put_swatch(swatch, f"{name}: {regions}", _PANEL_WIDTH)
    return entry


def _draw_patches(
    view: _View, slide: Pyramid, *, record: PredictionRecord, areas: Sequence[Area], max_patches: int
) -> _Panel:
    """The tissue with the regions that were looked into, and the patches that were read in them, numbered by weight."""
    image = view.tissue.copy()
    caption = _draw_areas(image, view, slide, areas)
    regions = [region.box for region in record.last_regions]
    _outline(image, view, regions)

    patches = record.inner_patches or ()
    colors = _pick_colors(record)
    places = []
    for patch in patches:
        place = view.place(patch.box)
        places.append(_enlarge(place, image))
    for number in reversed(range(len(patches))):  # the heaviest is drawn last
        color = colors[patches[number].mpp]
        draw_frame(image, places[number], color)
    _write_numbers(image, places, max_patches)

    entries = []
    for mpp, color in colors.items():
        of_magnification = [patch for patch in patches if patch.mpp == mpp]
        count = describe_count(len(of_magnification), "patch", "patches")
        name = of_magnification[0].magnification
        entries.append(put_swatch(make_swatch(color), f"{name}: {count}"))
    if entries:
        caption.append(put_in_rows(entries, _PANEL_WIDTH))
    caption.append(_make_scale_bar(view, slide))
    return _Panel(stack_images(caption, gap=6), image)


def _write_numbers(image: Image.Image, places: Sequence[Box], max_patches: int) -> None:
    """Number the first patches, beside their boxes where there is room."""
    whole = Box(0, 0, image.height, image.width)
    occupied = list(places)
    for number, place in enumerate(places[:max_patches], start=1):
        text = str(number)
        size = measure_label(text)
        around = _grow(place, size, whole)
        spot = find_free_spot(around, size, whole, occupied=occupied)
        occupied.append(spot)
        write_label(image, text, spot)


def _pick_colors(record: PredictionRecord) -> dict[float, str]:
    """Color of each magnification of the patches that were read: that of its map."""
    patches = sorted(record.inner_patches or (), key=lambda patch: patch.mpp, reverse=True)
    colors = {}
    for patch in patches:
        level = record.find_inner_level(patch)
        colors[patch.mpp] = pick_color(level)
    return colors


def _enlarge(place: Box, image: Image.Image) -> Box:
    """A box that is large enough to be seen, around the same center, inside the image."""
    height = max(place.height, _MIN_BOX)
    width = max(place.width, _MIN_BOX)
    above = (height - place.height) / 2
    beside = (width - place.width) / 2
    row = max(place.row - above, 0)
    col = max(place.col - beside, 0)
    last_row = image.height - height
    last_col = image.width - width
    return Box(min(row, last_row), min(col, last_col), height, width)


def _grow(place: Box, size: tuple[float, float], whole: Box) -> Box:
    """A box with room for a label around it, inside the image."""
    height, width = size
    top = max(0.0, place.row - height)
    left = max(0.0, place.col - width)
    bottom = min(whole.height, place.bottom + height)
    right = min(whole.width, place.right + width)
    return _span(top, left, bottom, right)


def _outline(image: Image.Image, view: _View, boxes: Sequence[Box]) -> None:
    """Thin outlines, black and white, which are seen on any ground."""
    places = [view.place(box) for box in boxes]
    for color, inset in ((_WHITE, 0), (_BLACK, 2)):
        for place in places:
            shorter_side = min(place.height, place.width)
            if shorter_side > 1 + 3 * inset:
                outline_box(image, place, color, width=2, inset=inset)


def _draw_layer(view: _View, layer: MapLayer, end: float) -> _Panel:
    """The attention of a magnification or of a stage over the gray tissue, in colors from 0 to the end of a scale."""
    values = np.full((view.gray.height, view.gray.width), np.nan)
    for grid in layer.grids:
        paint_grid(values, grid, view=view.box)
    known = np.nan_to_num(values)
    shares = known / (end or 1.0)
    image = blend_colors(shares, np.asarray(view.gray))
    _outline(image, view, layer.outlines)

    if layer.level is None:
        title = write_lines([layer.title], width=_PANEL_WIDTH)
    else:
        swatch = make_swatch(pick_color(layer.level))
        title = put_swatch(swatch, layer.title, _PANEL_WIDTH)
    note = write_lines([layer.note], width=_PANEL_WIDTH)
    caption = stack_images([title, note])
    return _Panel(caption, image)


# --------------------------------------------------------------------------------------------------------------- strip


def _draw_strip(
    slide: Pyramid, patches: Sequence[InnerPatch], *, colors: Mapping[float, str], max_patches: int
) -> Image.Image:
    """The heaviest patches that were read, each with its number, weight and magnification."""
    tiles = []
    for number, patch in enumerate(patches[:max_patches], start=1):
        pixels = _read_patch(slide, patch)
        side = choose_patch_side(pixels.shape[1], _CONTENT_WIDTH)
        weight = format_weight(patch.weight)
        length_um = patch.box.height * slide.mpp
        length = format_length(length_um, digits=3)
        lines = [f"{number}: weight {weight}", f"{patch.magnification}, {length}"]
        color = colors[patch.mpp]
        tiles.append(draw_patch_tile(pixels, color, lines, side=side))
    return put_in_rows(tiles, _CONTENT_WIDTH)


def _read_patch(slide: Pyramid, patch: InnerPatch) -> np.ndarray:
    """The pixels of a patch at its magnification, white beyond the slide: uint8 ``(3, side, side)``."""
    slide_height, slide_width = slide.geometry.size
    box = patch.box
    top = math.floor(box.row)
    left = math.floor(box.col)
    bottom = math.ceil(box.bottom)
    right = math.ceil(box.right)
    height = min(slide_height, bottom) - top
    width = min(slide_width, right) - left
    inside = slide.cropped((top, left), (height, width))

    scale = slide.mpp / patch.mpp
    side = round(box.height * scale)
    num_rows = max(1, round(height * scale))
    num_cols = max(1, round(width * scale))
    read_size = (min(side, num_rows), min(side, num_cols))
    pixels = np.full((3, side, side), 255, np.uint8)
    pixels[:, :num_rows, :num_cols] = inside.thumbnail(read_size, keep=False)
    return pixels
