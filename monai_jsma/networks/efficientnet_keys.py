# Copyright (c) the monai_jsma contributors.
# SPDX-License-Identifier: Apache-2.0
"""State dicts of the EfficientNet-PyTorch family under the keys of timm."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

__all__ = ["convert_efficientnet_keys", "has_efficientnet_keys"]

_STEM_AND_HEAD = {
    "_conv_stem": "conv_stem",
    "_bn0": "bn1",
    "_conv_head": "conv_head",
    "_bn1": "bn2",
    "_fc": "classifier",
}
_LAYERS_OF_BLOCK = {
    "_expand_conv": "conv_pw",
    "_bn0": "bn1",
    "_depthwise_conv": "conv_dw",
    "_bn1": "bn2",
    "_se_reduce": "se.conv_reduce",
    "_se_expand": "se.conv_expand",
    "_project_conv": "conv_pwl",
    "_bn2": "bn3",
}
_LAYERS_OF_BLOCK_WITHOUT_EXPANSION = {
    "_depthwise_conv": "conv_dw",
    "_bn1": "bn1",
    "_se_reduce": "se.conv_reduce",
    "_se_expand": "se.conv_expand",
    "_project_conv": "conv_pw",
    "_bn2": "bn2",
}


def has_efficientnet_keys(state_dict: Mapping[str, Any]) -> bool:
    """Whether the keys of a state dict are those of the EfficientNet-PyTorch family."""
    return "_conv_stem.weight" in state_dict


def convert_efficientnet_keys(state_dict: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Weights of the EfficientNet-PyTorch family (keys such as ``_blocks.1._expand_conv.weight``) under timm's keys.

    Blocks are counted through there, and by stage and block in timm. Keys that are not known are kept, so that the
    comparison with the model finds them.

    Args:
        state_dict: the weights by their own keys.
        expected: state dict of timm's model, of which only the keys of the blocks are looked at.
    """
    blocks = _list_blocks(expected)
    converted = {}
    for key, value in state_dict.items():
        layer, _, entry = key.rpartition(".")
        if key.startswith("_blocks."):
            layer = _convert_block_layer(layer, blocks, state_dict)
        else:
            layer = _STEM_AND_HEAD.get(layer, layer)
        converted[f"{layer}.{entry}"] = value
    return converted


def _list_blocks(expected: Mapping[str, Tensor]) -> list[str]:
    """Beginnings of timm's keys, such as ``blocks.2.0`` of ``blocks.2.0.conv_pw.weight``, in their order."""
    blocks = []
    for key in expected:
        parts = key.split(".")
        block = ".".join(parts[:3])
        if parts[0] == "blocks" and block not in blocks:
            blocks.append(block)
    return blocks


def _convert_block_layer(layer: str, blocks: list[str], state_dict: Mapping[str, Tensor]) -> str:
    _, number, name = layer.split(".", 2)
    if not number.isdigit() or int(number) >= len(blocks):
        return f"blocks.{number}.{name}"  # timm has no such key, which the comparison with the model finds
    has_expansion = f"_blocks.{number}._expand_conv.weight" in state_dict
    layers = _LAYERS_OF_BLOCK if has_expansion else _LAYERS_OF_BLOCK_WITHOUT_EXPANSION
    return f"{blocks[int(number)]}.{layers.get(name, name)}"
