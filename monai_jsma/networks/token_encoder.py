# Copyright (c) the monai_jsma contributors.
# SPDX-License-Identifier: Apache-2.0
"""One vector of an image from the tokens of a vision transformer, as the model's authors make it, or their map."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["MAP", "POOLINGS", "AttentionPooler", "TokenEncoder"]

MAP = "map"
POOLINGS = ("token", "mean", "token_mean", "attention")


class TokenEncoder(nn.Module):
    """A transformer of timm, and what is made of its normalized tokens.

    Args:
        model: transformer with ``forward_features`` and ``num_prefix_tokens``.
        pooling: ``"token"``, the class token; ``"mean"``, the mean of the patch tokens; ``"token_mean"``, both, the
            class token first; ``"attention"``, see :class:`AttentionPooler`; ``"map"``, the patch tokens as a map.
        pooler: for ``"attention"``.
        size: height and width of the images that the transformer takes; others are brought to it. None: any.
        resize: side that other images are brought to before their center of ``size`` is cut out; None: ``size``.
        interpolation: of that resizing, ``"bilinear"`` or ``"bicubic"``.

    Raises:
        ValueError: if the model has no tokens, or no class token where one is needed.
    """

    def __init__(
        self,
        model: nn.Module,
        pooling: str,
        *,
        pooler: nn.Module | None = None,
        size: int | None = None,
        resize: int | None = None,
        interpolation: str = "bicubic",
    ) -> None:
        super().__init__()
        prefix = getattr(model, "num_prefix_tokens", None)
        if prefix is None:
            raise ValueError(f"{type(model).__name__} is no transformer with tokens: leave 'pooling' out.")
        if pooling.startswith("token") and prefix == 0:
            raise ValueError(f"{type(model).__name__} has no class token: pooling 'mean', not '{pooling}'.")
        self.model = model
        self.pooling = pooling
        self.pooler = pooler
        self.size = size
        self.resize = resize
        self.interpolation = interpolation

    @property
    def num_features(self) -> int:
        """Length of the vector, or number of channels of the map."""
        model: Any = self.model
        if self.pooler is not None:
            return int(self.pooler.num_features)  # type: ignore[arg-type]
        return int(model.num_features) * (2 if self.pooling == "token_mean" else 1)

    def forward(self, images: Tensor) -> Tensor:
        """Vectors ``(batch, features)``, or a map ``(batch, channels, rows, columns)``, of normalized images."""
        model: Any = self.model
        images = self._fit(images)
        tokens = model.forward_features(images)  # (batch, tokens, channels)
        if self.pooler is not None:
            return self.pooler(tokens)
        places = tokens[:, model.num_prefix_tokens :]
        if self.pooling == "token":
            return tokens[:, 0]
        if self.pooling == "mean":
            return places.mean(dim=1)
        if self.pooling == "token_mean":
            return torch.cat((tokens[:, 0], places.mean(dim=1)), dim=1)
        height, width = model.patch_embed.patch_size
        grid = images.shape[2] // height, images.shape[3] // width
        return places.transpose(1, 2).unflatten(2, grid)

    def _fit(self, images: Tensor) -> Tensor:
        height, width = images.shape[2:]
        if self.size is None or height == width == self.size:
            return images
        side = self.resize or self.size
        resized = nn.functional.interpolate(
            images, (side, side), mode=self.interpolation, antialias=True, align_corners=False
        )
        start = (side - self.size) // 2
        end = start + self.size
        return resized[:, :, start:end, start:end]

    def extra_repr(self) -> str:
        """What tells it from another one of the same weights: features that are kept go by it."""
        return f"pooling={self.pooling}, size={self.size}, resize={self.resize}, interpolation={self.interpolation}"


class AttentionPooler(nn.Module):
    """One vector that attends to all tokens by a learned query, as in CoCa (Yu et al., 2022).

    Args:
        num_channels: channels of the tokens.
        num_features: length of the vector.
        num_heads: number of heads of the attention.
    """

    def __init__(self, num_channels: int, num_features: int, *, num_heads: int = 8) -> None:
        super().__init__()
        self.num_features = num_features
        self.query = nn.Parameter(torch.zeros(1, num_features))
        self.query_norm = nn.LayerNorm(num_features)
        self.token_norm = nn.LayerNorm(num_channels)
        self.attention = nn.MultiheadAttention(
            num_features, num_heads, kdim=num_channels, vdim=num_channels, batch_first=True
        )
        self.norm = nn.LayerNorm(num_features)

    def forward(self, tokens: Tensor) -> Tensor:
        """Vectors ``(batch, features)`` of tokens ``(batch, tokens, channels)``."""
        tokens = self.token_norm(tokens)
        query = self.query_norm(self.query).expand(len(tokens), 1, -1)
        pooled, _ = self.attention(query, tokens, tokens, need_weights=False)
        return self.norm(pooled[:, 0])
