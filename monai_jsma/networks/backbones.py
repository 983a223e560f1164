# Copyright (c) the monai_jsma contributors.
# SPDX-License-Identifier: Apache-2.0
"""The feature extractors h (thumbnail) and f (patches): a timm name or a module of one's own (paper, Section 4.2).

Input is RGB ``(batch, 3, height, width)``, ``uint8`` or float in [0, 1]; it is normalised here, once, on the device.
Output is a feature map ``(batch, channels, height', width')``.
"""

from __future__ import annotations

import os
import pickle
from difflib import get_close_matches
from typing import Any

import torch
from torch import Tensor, nn

from monai_jsma._torchvision import ensure_torchvision

__all__ = ["Backbone", "ConvBackbone", "build_backbone"]


class Backbone(nn.Module):
    """A feature extractor behind its input normalisation.

    Args:
        model: maps ``(batch, 3, height, width)`` to a feature map, or to a list whose last entry is one.
        num_features: channels of that map.
        mean: of each input channel, in [0, 1].
        std: of each input channel.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, model: nn.Module, num_features: int, mean: Any = (0.5,) * 3, std: Any = (0.5,) * 3) -> None:
        super().__init__()
        self.model, self.num_features = model, num_features
        self.register_buffer("mean", torch.tensor(mean).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(1, 3, 1, 1), persistent=False)

    @property
    def non_negative(self) -> bool:
        """Whether no feature can be negative, as far as it shows: a plain ``Sequential`` that ends with ReLU."""
        plain = type(self.model).forward is nn.Sequential.forward
        return plain and type(list(self.model.children())[-1]) is nn.ReLU

    def forward(self, images: Tensor) -> Tensor:
        """Feature map of ``uint8`` or [0, 1] images.

        Raises:
            ValueError: if the model gives something else than a map of ``num_features`` channels.
        """
        images = images.float() / 255 if images.dtype == torch.uint8 else images
        features = self.model((images - self.mean) / self.std)
        features = features[-1] if isinstance(features, (list, tuple)) else features
        if features.ndim == 4 and features.shape[1] != self.num_features == features.shape[3]:
            features = features.permute(0, 3, 1, 2)  # some transformers keep their channels last
        if features.ndim != 4 or features.shape[1] != self.num_features:
            raise ValueError(
                f"{type(self.model).__name__} gave features of shape {tuple(features.shape)}; a backbone must give a "
                f"map (batch, {self.num_features}, height, width)."
            )
        return features


class ConvBackbone(nn.Sequential):
    """A small convolutional feature extractor without batch statistics, for small patches, demos and tests.

    Every stage is a 3x3 convolution, group normalisation and ReLU; stages after the first halve the resolution.

    Args:
        channels: output channels of each stage, multiples of 8.
        in_channels: of the image.
    """

    def __init__(self, channels: tuple[int, ...] = (16, 32, 64), in_channels: int = 3) -> None:
        stages: list[nn.Module] = []
        for i, (before, after) in enumerate(zip((in_channels, *channels), channels)):
            stages += [nn.Conv2d(before, after, 3, 1 if i == 0 else 2, 1), nn.GroupNorm(8, after), nn.ReLU()]
        super().__init__(*stages)
        self.num_features = channels[-1]


def build_backbone(backbone: str | nn.Module, weights: str | None) -> Backbone:
    """A feature extractor from its name, or from a module.

    Args:
        backbone: name of any timm model (``"inception_v3"`` is the paper's), or a module that gives feature maps and
        has
            ``num_features``.
        weights: ``"imagenet"`` (timm's default weights, downloaded), the path of a state dict of that timm model
            (``.pth`` or ``.safetensors``), or None for random ones. A module brings its own: None.

    Raises:
        ValueError: for an unknown name, or for weights that do not go with the backbone.
        FileNotFoundError: if ``weights`` is no file.
        RuntimeError: if the weights cannot be downloaded or do not fit.
    """
    if isinstance(backbone, nn.Module):
        if weights is not None:
            raise ValueError(f"a module brings its own weights; pass weights=None instead of '{weights}'.")
        if not hasattr(backbone, "num_features"):
            raise ValueError(f"{type(backbone).__name__} lacks 'num_features', the channels of the maps that it gives.")
        return Backbone(backbone, int(backbone.num_features))  # type: ignore[arg-type]
    ensure_torchvision()
    import timm

    if not timm.is_model(backbone):
        near = ", ".join(get_close_matches(backbone, timm.list_models(), n=5)) or "see timm.list_models()"
        raise ValueError(f"unknown backbone '{backbone}': timm has no model of that name ({near}).")
    options: dict[str, Any] = {}
    if weights not in (None, "imagenet"):
        _check_weights(backbone, str(weights))
        options["pretrained_cfg_overlay"] = {"file": str(weights)}
    try:
        model: Any = timm.create_model(
            backbone, pretrained=weights is not None, features_only=True, out_indices=(-1,), **options
        )
    except (RuntimeError, OSError, AssertionError) as error:
        if weights is None:
            raise ValueError(f"backbone '{backbone}' gives no feature maps: {error}") from error
        raise RuntimeError(
            f"weights '{weights}' could not be loaded into '{backbone}': {error}. Give the path of a state dict of "
            "that model, or None for random weights."
        ) from error
    config: Any = timm.get_pretrained_cfg(backbone)
    return Backbone(model, model.feature_info.channels()[-1], config.mean, config.std)


def _check_weights(backbone: str, path: str) -> None:
    """timm passes over weights that a file lacks; here they are an error, since the model would stay partly random."""
    import timm
    from safetensors import SafetensorError

    if not os.path.isfile(path):
        raise FileNotFoundError(f"weights '{path}': no such file; give a path, 'imagenet' or None.")
    try:
        found = timm.models.load_state_dict(path, use_ema=False)
    except (RuntimeError, ValueError, KeyError, EOFError, pickle.UnpicklingError, SafetensorError) as error:
        raise RuntimeError(f"weights '{path}': no state dict can be read from this file: {error!r}.") from error
    wanted = timm.create_model(backbone, num_classes=0).state_dict()
    wrong = [k for k, v in wanted.items() if k not in found or found[k].shape != v.shape]
    if wrong:
        raise RuntimeError(
            f"weights '{path}' are not those of '{backbone}': {len(wrong)} of {len(wanted)} entries are missing or of "
            f"another shape, such as '{wrong[0]}'."
        )
