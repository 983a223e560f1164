# Copyright (c) the monai_jsma contributors.
# SPDX-License-Identifier: Apache-2.0
"""What every network here has in common: patches are read and encoded by f, and a bag of them is classified by g.

How a network comes to its bag is its own: :class:`~monai_jsma.networks.JSMANet` samples cells from the attention to a
thumbnail, :class:`~monai_jsma.networks.AttentionMIL` reads them all.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Protocol, Self

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from monai_jsma.geometry import Magnification, sorted_magnifications
from monai_jsma.networks.backbones import Backbone, build_backbone
from monai_jsma.networks.feature_cache import FeatureCache
from monai_jsma.networks.sampling import Draw

__all__ = ["PatchNetwork", "PatchSource", "Weights"]

Weights = str | Mapping[str, str | None] | None  # of all backbones, or of each by its name: ``{"patch_backbone": ...}``
_BACKBONES = ("thumbnail_backbone", "patch_backbone")

_TOLERANCE = 0.01  # of a spacing


class PatchSource(Protocol):
    """What a network reads patches from: a :class:`~monai_jsma.data.PyramidBatch` or anything alike."""

    @property
    def grids(self) -> Sequence[tuple[tuple[int, int], ...]]:
        """Per picture the rows and columns of every magnification."""

    def read(self, pictures: Tensor, cells: Tensor) -> Tensor:
        """Patches of ``cells[i]`` of picture ``pictures[i]``: ``(n, 3, patch, patch)``."""


class PatchNetwork(nn.Module):
    """Base of the networks. A subclass makes its backbones by :meth:`make_backbone`, and a ``classifier``.

    Args:
        num_classes: number of labels.
        magnifications: spacings in um per pixel, or names ("100X").
        patch_size: height and width of a patch, in pixels of its magnification.
        feature_norm: None, or ``"l2"`` so that no patch can outweigh another by its length.
        dropout: of the classifier.
        freeze_norm: keep batch statistics as they were loaded.
        chunk_size: patches read and encoded at once where there may be many.
        aligned: put the patches of whole pictures side by side, as :class:`~monai_jsma.geometry.PatchGeometry` does.
        freeze_patch_backbone: f does not learn: it stays in evaluation, and nothing is kept for its gradient.
        feature_cache: a folder where the features of a frozen f are kept, see
            :class:`~monai_jsma.networks.FeatureCache`.

    Raises:
        ValueError: for a value that is not offered.
    """

    patch_backbone: Backbone
    classifier: nn.Linear
    spacings: Tensor  # of the magnifications, kept with the weights

    def __init__(
        self,
        num_classes: int,
        magnifications: Sequence[float | str | Magnification],
        patch_size: int,
        feature_norm: str | None,
        dropout: float,
        freeze_norm: bool,
        chunk_size: int,
        aligned: bool,
        freeze_patch_backbone: bool,
        feature_cache: str | Path | None,
    ) -> None:
        super().__init__()
        if feature_norm not in (None, "l2"):
            raise ValueError(f"unknown feature_norm '{feature_norm}'; choose one of None, l2.")
        if num_classes < 2 or chunk_size < 1:
            raise ValueError(f"num_classes {num_classes} must be at least 2 and chunk_size {chunk_size} at least 1.")
        if feature_cache is not None and not freeze_patch_backbone:
            raise ValueError(
                f"feature_cache '{feature_cache}' keeps what does not change, but f is being trained: set "
                "freeze_patch_backbone, or feature_cache to None."
            )
        self.magnifications = sorted_magnifications(magnifications)
        self.register_buffer("spacings", torch.tensor([m.mpp for m in self.magnifications]))
        self.patch_size, self.aligned, self.feature_norm = patch_size, aligned, feature_norm
        self.freeze_norm, self.chunk_size = freeze_norm, chunk_size
        self.freeze_patch_backbone = freeze_patch_backbone
        self.feature_cache = None if feature_cache is None else FeatureCache(feature_cache)
        self.dropout = nn.Dropout(dropout)
        self._sources: dict[str, tuple[str | nn.Module, bool]] = {}

    def make_backbone(self, name: str, source: str | nn.Module, weights: Weights, *, pooled: bool = False) -> Backbone:
        """The backbone that will be the attribute ``name``, see :func:`~monai_jsma.networks.build_backbone`."""
        self._sources[name] = source, pooled
        return build_backbone(source, _weights_of(name, weights), pooled=pooled)

    # ------------------------------------------------------------------------------------------------------- verbs

    def encode(self, patches: Tensor) -> Tensor:
        """Features f ``(n, features)`` of patches ``(n, 3, patch, patch)``: the map's mean, of length 1 if ``l2``."""
        features = self.patch_backbone(patches).mean(dim=(2, 3)).float()
        return nn.functional.normalize(features, dim=1) if self.feature_norm == "l2" else features

    def aggregate(self, features: Tensor, weights: Tensor) -> Tensor:
        """The bag ``sum_t weights_t f_t``: ``(..., features)`` from ``(..., k, features)`` and ``(..., k)``."""
        return (weights[..., None] * features).sum(dim=-2)

    def classify(self, bags: Tensor) -> Tensor:
        """Logits of bags ``(batch, ..., features)``, outside autocast: they are compared.

        For the same reason bags of one picture share one dropout mask.
        """
        mask = self.dropout(bags.new_ones(len(bags), *(1,) * (bags.ndim - 2), bags.shape[-1]))
        with torch.autocast(bags.device.type, enabled=False):
            return self.classifier(self.scaled(bags) * mask)

    def scaled(self, features: Tensor) -> Tensor:
        """Features as a linear layer meets them.

        Entries of a vector of length 1 are small. Unscaled, a layer's weights take hundreds of steps to grow, and the
        attention learns nothing until they have.
        """
        return features * features.shape[-1] ** 0.5 if self.feature_norm == "l2" else features

    def patch_features(self, pyramid: PatchSource, draw: Draw, *, in_chunks: bool) -> Tensor:
        """Features of the drawn patches ``(batch, k, features)``, 0 where none was drawn; equal cells are read once.

        Args:
            pyramid: what the patches are read from.
            draw: cells ``(batch, k)``.
            in_chunks: encode ``chunk_size`` patches at a time. Then the activations of one chunk are in memory, not of
                all: for the gradient they are computed again (batch statistics, unless frozen, move a second time).
        """
        batch, k = draw.cells.shape
        picture = torch.arange(batch, device=draw.cells.device)[:, None].expand(batch, k)
        pairs = torch.stack((picture, draw.cells), dim=2)[draw.drawn]
        pairs, where = torch.unique(pairs, dim=0, return_inverse=True)
        chunks = pairs.cpu().split(self.chunk_size if in_chunks else len(pairs))
        again = len(chunks) > 1 and torch.is_grad_enabled()
        encode = partial(checkpoint, self.encode, use_reentrant=False) if again else self.encode
        encoded = torch.cat([self._encoded(pyramid, chunk, draw.cells.device, encode) for chunk in chunks])
        features = encoded.new_zeros(batch, k, encoded.shape[1])
        features[draw.drawn] = encoded[where]
        return features

    def _encoded(
        self, pyramid: PatchSource, pairs: Tensor, device: torch.device, encode: Callable[[Tensor], Tensor]
    ) -> Tensor:
        def fresh(pairs: Tensor) -> Tensor:
            return encode(pyramid.read(pairs[:, 0], pairs[:, 1]).to(device, non_blocking=True))

        if self.feature_cache is None:
            return fresh(pairs)
        return self.feature_cache.features(self.patch_backbone, self.feature_norm, pyramid, pairs, fresh).to(device)

    # ----------------------------------------------------------------------------------------------------- weights

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *others: Any) -> None:
        """Refuse weights of other magnifications, which might fit and would be wrong; older ones do not tell theirs."""
        saved = state_dict.setdefault(f"{prefix}spacings", self.spacings).cpu()
        own = self.spacings.to(saved)
        if saved.shape != own.shape or not torch.allclose(saved, own, rtol=_TOLERANCE):
            given, wanted = (", ".join(f"{mpp:.4g}" for mpp in spacings.tolist()) for spacings in (saved, own))
            raise ValueError(
                f"the weights were trained with magnifications of {given} um per pixel, but the network has {wanted}; "
                "give it the magnifications of the training."
            )
        super()._load_from_state_dict(state_dict, prefix, *others)

    def load_weights(self, weights: Weights) -> Self:
        """Give the backbones weights of :func:`~monai_jsma.networks.build_backbone`; None leaves them as they are."""
        for name, (source, pooled) in self._sources.items():
            if (path := _weights_of(name, weights)) is not None:
                getattr(self, name).load_state_dict(build_backbone(source, path, pooled=pooled).state_dict())
        return self

    def train(self, mode: bool = True) -> Self:
        """As of every module; with ``freeze_norm`` batch normalisation stays in evaluation, and so does a frozen f."""
        super().train(mode)
        if self.freeze_norm:
            for module in self.modules():
                if isinstance(module, nn.modules.batchnorm._BatchNorm):
                    module.eval()
        if self.freeze_patch_backbone:
            self.patch_backbone.requires_grad_(False).eval()
        return self


def _weights_of(name: str, weights: Weights) -> str | None:
    if not isinstance(weights, Mapping):
        return weights
    if unknown := set(weights) - set(_BACKBONES):
        raise ValueError(f"weights of {', '.join(sorted(unknown))}: there are only {' and '.join(_BACKBONES)}.")
    return weights.get(name)
