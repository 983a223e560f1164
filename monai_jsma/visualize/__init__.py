# Copyright (c) the monai_jsma contributors.
# SPDX-License-Identifier: Apache-2.0
"""Pictures of where the network looked: attention maps, sampled patches, and one page with all of it."""

from monai_jsma.visualize.annotation import by_class, draw_areas
from monai_jsma.visualize.attention import attention_image, draw_attention
from monai_jsma.visualize.canvas import figure_image, save_figure
from monai_jsma.visualize.geojson import feature_collection
from monai_jsma.visualize.overview import overview_figure
from monai_jsma.visualize.patches import (
    draw_boxes,
    draw_strip,
    drawn_patches,
    patch_boxes_image,
    patch_strip_image,
    strip_height,
)
from monai_jsma.visualize.saved import open_record, record_boxes_image, record_figure

__all__ = [
    "attention_image",
    "by_class",
    "draw_areas",
    "draw_attention",
    "draw_boxes",
    "draw_strip",
    "drawn_patches",
    "feature_collection",
    "figure_image",
    "open_record",
    "overview_figure",
    "patch_boxes_image",
    "patch_strip_image",
    "record_boxes_image",
    "record_figure",
    "save_figure",
    "strip_height",
]
