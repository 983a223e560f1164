# Copyright (c) the monai_jsma contributors.
# SPDX-License-Identifier: Apache-2.0
"""The attention network A: the thumbnail's feature map to one distribution over all cells (paper, Section 3.2, 3.3).

Cells are flat, coarse to fine and row-major inside a magnification. Everything is in float32 and in log space.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import adaptive_avg_pool2d, logsigmoid
from torch.nn.utils.rnn import pad_sequence

__all__ = ["AttentionNetwork", "UniformAttention", "attention_dropout", "log_prior", "negative_entropy"]

Grids = Sequence[tuple[int, int]]


class AttentionNetwork(nn.Module):
    """Per magnification: average pooling to its grid and a 1x1 convolution to one logit a cell; then one normalisation.

    Args:
        in_channels: channels of the thumbnail's feature map.
        num_magnifications: number of attention maps.
        normalization: ``"sigmoid"`` (the paper: sigmoids divided by their sum over ALL cells) or ``"softmax"``.
        level_prior: None, or ``"balanced"`` so that equal logits give each magnification (not each cell) the same
        share.
        bias: initial bias of the logits. Sigmoids start at -4, where they are still proportional to exp(logit): at 0
        they
            saturate and the gradient is several times weaker.

    Raises:
        ValueError: for an unknown normalization or level_prior.
    """

    def __init__(
        self,
        in_channels: int,
        num_magnifications: int,
        normalization: str = "sigmoid",
        level_prior: str | None = None,
        bias: float = -4.0,
    ) -> None:
        super().__init__()
        if normalization not in ("sigmoid", "softmax"):
            raise ValueError(f"unknown normalization '{normalization}'; choose 'sigmoid' or 'softmax'.")
        self.normalization, self.level_prior = normalization, _known_prior(level_prior)
        self.logits = nn.ModuleList(nn.Conv2d(in_channels, 1, 1) for _ in range(num_magnifications))
        for conv in self.logits:
            nn.init.constant_(conv.bias, bias)  # type: ignore[arg-type]

    def forward(self, features: Tensor, grids: Sequence[Grids]) -> Tensor:
        """Log attention of a batch.

        Args:
            features: feature maps of the thumbnails ``(batch, channels, height, width)``.
            grids: for each picture the (rows, columns) of every magnification.

        Returns:
            log probabilities ``(batch, cells)``, float32; -inf beyond the last cell of pictures with fewer cells.
        """
        with torch.autocast(features.device.type, enabled=False):
            features = features.float()
            if len({tuple(g) for g in grids}) == 1:
                return self._log_attention(features, grids[0])
            # Every picture is normalised over its own cells before padding, so that no mask can leak into a gradient.
            ragged = [self._log_attention(f[None], g)[0] for f, g in zip(features, grids)]
            return pad_sequence(ragged, batch_first=True, padding_value=float("-inf"))

    def _log_attention(self, features: Tensor, grids: Grids) -> Tensor:
        if len(grids) != len(self.logits):
            raise ValueError(
                f"the network attends to {len(self.logits)} magnifications, but the pictures have {len(grids)}; give "
                "LoadPyramid and the network the same magnifications."
            )
        # Averaging and a 1x1 convolution commute: of a slide's many cells only their logits are ever in memory.
        maps = [adaptive_avg_pool2d(conv(features), grid).flatten(1) for conv, grid in zip(self.logits, grids)]
        logits = torch.cat(maps, dim=1)
        weight = logsigmoid(logits) if self.normalization == "sigmoid" else logits
        if self.level_prior == "balanced":
            weight = weight + log_prior([grids]).to(weight)
        return weight.log_softmax(dim=1)


class UniformAttention(nn.Module):
    """Attention that does not look: every cell has the same share.

    Args:
        level_prior: None, or ``"balanced"`` so that every magnification has the same share, and its cells inside it.

    Raises:
        ValueError: for an unknown level_prior.
    """

    def __init__(self, level_prior: str | None = None) -> None:
        super().__init__()
        self.level_prior = _known_prior(level_prior)

    def forward(self, features: Tensor, grids: Sequence[Grids]) -> Tensor:
        """Log attention ``(batch, cells)`` of pictures with these grids; of the features only the device counts."""
        prior = log_prior(grids).to(features.device)
        if self.level_prior == "balanced":
            return prior
        return prior.masked_fill(torch.isfinite(prior), 0.0).log_softmax(dim=1)


def _known_prior(level_prior: str | None) -> str | None:
    if level_prior not in (None, "balanced"):
        raise ValueError(f"unknown level_prior '{level_prior}'; choose None or 'balanced'.")
    return level_prior


def log_prior(grids: Sequence[Grids]) -> Tensor:
    """The neutral distribution: equal shares for the magnifications, and inside each for its cells.

    Args:
        grids: for each picture the (rows, columns) of every magnification.

    Returns:
        ``-log(m n_j)`` for each cell, ``(batch, cells)``; -inf where padded.
    """
    rows = [[-torch.tensor(float(len(g) * r * c)).log().expand(r * c) for r, c in g] for g in grids]
    return pad_sequence([torch.cat(row) for row in rows], batch_first=True, padding_value=float("-inf"))


def attention_dropout(log_prob: Tensor, rate: float, keep: int = 1, generator: torch.Generator | None = None) -> Tensor:
    """Reset a part of the attention to 0 before sampling, so that other patches are explored (paper, Section 3.3).

    Of the N cells of a picture exactly ``round(rate * N)`` are dropped, but at least ``max(keep, 1)`` stay; the rest is
    normalised again.

    Args:
        log_prob: log attention ``(batch, cells)``.
        rate: share of the cells to drop, in [0, 1].
        keep: number of cells that must stay, the number of patches to draw.
        generator: source of randomness; PyTorch's global one by default.

    Raises:
        ValueError: if the rate is outside [0, 1].
    """
    if not 0 <= rate <= 1:
        raise ValueError(f"attention dropout must be in [0, 1], but got {rate}.")
    exists = torch.isfinite(log_prob)
    count = exists.sum(dim=1, keepdim=True)
    drop = torch.minimum((rate * count).round(), count - max(keep, 1)).clamp_min(0)
    keys = torch.rand(log_prob.shape, generator=generator, device=log_prob.device).masked_fill(~exists, 2.0)
    rank = keys.argsort(dim=1).argsort(dim=1)
    return log_prob.masked_fill(rank < drop, float("-inf")).log_softmax(dim=1)


def negative_entropy(log_prob: Tensor, log_prior: Tensor | None = None) -> Tensor:
    """R = sum P log P of each picture (paper, Eq. 3 and 4), or KL(P || prior) if a prior is given: ``(batch,)``.

    Cells of no attention (log P = -inf) count 0, in the value and in the gradient.
    """
    exists = torch.isfinite(log_prob)
    log_p = log_prob.masked_fill(~exists, 0.0)
    relative = log_p if log_prior is None else log_p - log_prior.masked_fill(~exists, 0.0)
    return (log_p.exp() * relative).masked_fill(~exists, 0.0).sum(dim=1)
