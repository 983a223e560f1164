# Copyright (c) the monai_jsma contributors.
# SPDX-License-Identifier: Apache-2.0
"""The feature extractors h (thumbnail) and f (patches): a timm name or a module of one's own (paper, Section 4.2).

Input is RGB ``(batch, 3, height, width)``, ``uint8`` or float in [0, 1]; it is normalised here, once, on the device.
Output is a feature map ``(batch, channels, height', width')``; of f, whose map is averaged, it may be a single place.
"""

from __future__ import annotations

import os
import pickle
from difflib import get_close_matches
from typing import Any

import torch
from torch import Tensor, nn

from monai_jsma.networks._torchvision import ensure_torchvision

__all__ = ["Backbone", "ConvBackbone", "build_backbone"]


class Backbone(nn.Module):
    """A feature extractor behind its input normalisation.

    Args:
        model: maps ``(batch, 3, height, width)`` to a feature map, or to a list whose last entry is one.
        num_features: channels of that map.
        mean: of each input channel, in [0, 1].
        std: of each input channel.
        pooled: accept a model that gives vectors ``(batch, channels)`` too: maps of one place.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        model: nn.Module,
        num_features: int,
        mean: Any = (0.5,) * 3,
        std: Any = (0.5,) * 3,
        pooled: bool = False,
    ) -> None:
        super().__init__()
        self.model, self.num_features, self.pooled = model, num_features, pooled
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
            ValueError: if the model gives something else than a map of ``num_features`` channels, or refuses the size.
        """
        images = images.float() / 255 if images.dtype == torch.uint8 else images
        try:
            features = self.model((images - self.mean) / self.std)
        except AssertionError as error:  # of timm's transformers
            raise ValueError(
                f"{type(self.model).__name__} takes no images of {images.shape[2]} x {images.shape[3]} pixels: {error} "
                "Set 'patch_size', or 'thumbnail_size' if it is that of the thumbnail."
            ) from error
        features = features[-1] if isinstance(features, (list, tuple)) else features
        if self.pooled and features.ndim == 2:
            features = features[:, :, None, None]
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


def build_backbone(backbone: str | nn.Module, weights: str | None, *, pooled: bool = False) -> Backbone:
    """A feature extractor from its name, or from a module.

    Args:
        backbone: name of any timm model (``"inception_v3"`` is the paper's), also ``"hf-hub:owner/model"`` or
            ``"local-dir:folder"`` (a folder with ``config.json`` and weights, as the hub has them); or a module that
            gives feature maps and has ``num_features``.
        weights: ``"imagenet"`` (those that timm has for that name: ImageNet's, or the hub's or folder's own), the path
            of a state dict of that timm model (``.pth`` or ``.safetensors``), or None for random ones. A module brings
            its own: None.
        pooled: the map's mean is all that is wanted. A transformer then gives what its authors take for the image (its
            class token, or the mean of its tokens), and a module may give vectors.

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
        return Backbone(backbone, int(backbone.num_features), pooled=pooled)  # type: ignore[arg-type]
    ensure_torchvision()
    import timm

    if ":" not in backbone and not timm.is_model(backbone):
        near = ", ".join(get_close_matches(backbone, timm.list_models(), n=5)) or "see timm.list_models()"
        raise ValueError(f"unknown backbone '{backbone}': timm has no model of that name ({near}).")
    if weights not in (None, "imagenet"):
        _check_weights(backbone, str(weights))
    model = _timm_model(backbone, weights, features_only=True, out_indices=(-1,))
    num_features = model.feature_info.channels()[-1]
    if pooled and hasattr(getattr(model, "model", None), "num_prefix_tokens"):  # a transformer
        model = _timm_model(backbone, weights, num_classes=0)
    config = model.pretrained_cfg
    return Backbone(model, num_features, config["mean"], config["std"], pooled)


def _timm_model(name: str, weights: str | None, **options: Any) -> Any:
    import timm

    if weights not in (None, "imagenet"):
        options["pretrained_cfg_overlay"] = {"file": str(weights), "source": ""}
    try:
        return timm.create_model(name, pretrained=weights is not None, **options)
    except (RuntimeError, OSError, AssertionError, ValueError) as error:
        if weights is None:
            raise ValueError(f"backbone '{name}' cannot be made: {error}") from error
        raise RuntimeError(
            f"weights '{weights}' could not be loaded into '{name}': {error}. Give the path of a state dict of "
            "that model, or None for random weights."
        ) from error


def _check_weights(backbone: str, path: str) -> None:
    """timm passes over weights that a file lacks, and over those that the model lacks; here both are an error.

    Else the model would stay partly random, or be another than the one that was trained. Heads may differ.
    """
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
    parts = {k.split(".")[0] for k in wanted}
    unknown = [k for k in found if k not in wanted and (k.split(".")[0] in parts or "." not in k)]
    if unknown:
        raise RuntimeError(
            f"weights '{path}' are not those of '{backbone}', which lacks {len(unknown)} of their entries, such as "
            f"'{unknown[0]}': name the model that they were made with, or give a folder with its 'config.json' as "
            "'local-dir:folder'."
        )
