# Copyright (c) the monai_jsma contributors.
# SPDX-License-Identifier: Apache-2.0
"""Figures of where the network looked: attention maps, sampled patches, a page with both, and objects for QuPath."""

from monai_jsma import _moved
from monai_jsma.visualize.area_outlines import by_class, draw_areas
from monai_jsma.visualize.attention import attention_image, draw_attention
from monai_jsma.visualize.background import read_background
from monai_jsma.visualize.canvas import figure_image, save_figure
from monai_jsma.visualize.captions import describe_answer, describe_place, name_class
from monai_jsma.visualize.card import draw_card
from monai_jsma.visualize.geojson import feature_collection
from monai_jsma.visualize.overview import overview_figure
from monai_jsma.visualize.patches import (
    draw_boxes,
    draw_strip,
    patch_boxes_image,
    patch_strip_image,
    rank_patches,
    strip_height,
)
from monai_jsma.visualize.record_figures import open_record, record_boxes_image, record_figure

__all__ = [
    "attention_image",
    "by_class",
    "describe_answer",
    "describe_place",
    "draw_areas",
    "draw_attention",
    "draw_boxes",
    "draw_card",
    "draw_strip",
    "feature_collection",
    "figure_image",
    "name_class",
    "open_record",
    "overview_figure",
    "patch_boxes_image",
    "patch_strip_image",
    "rank_patches",
    "read_background",
    "record_boxes_image",
    "record_figure",
    "save_figure",
    "strip_height",
]

_MOVED = {
    "drawn_patches": "monai_jsma.visualize.patches:rank_patches",
}
__getattr__ = _moved.lookup(__name__, _MOVED)
