# Copyright (c) the monai_jsma contributors.
# SPDX-License-Identifier: Apache-2.0
"""What happens when a network loads saved weights: old names are translated, other magnifications refused."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from monai_jsma.geometry import Magnification

__all__ = ["prepare_loading"]

_TOLERANCE = 0.01  # of a spacing, relative

# Names of version 0.1, and what they are called now. The order of the modules is the same, so that the state of an
# optimizer, which goes by the order of the parameters, fits without translation.
_RENAMED = {"thumbnail_backbone.": "thumbnail_encoder.", "patch_backbone.": "patch_encoder.backbone."}


def prepare_loading(network: nn.Module, magnifications: Sequence[Magnification]) -> None:
    """Keep the magnifications of a network with its weights, and check those of the weights that it loads.

    The network gets the buffer ``spacings``. Loading raises a ValueError if the weights were trained with other
    magnifications: they might fit, and would be wrong. Weights that were saved without spacings are loaded.

    Args:
        network: network of this package, or one like them.
        magnifications: its magnifications, coarse to fine.
    """
    spacings = [magnification.mpp for magnification in magnifications]
    network.register_buffer("spacings", torch.tensor(spacings))
    network.register_load_state_dict_pre_hook(_rename_weights)
    network.register_load_state_dict_pre_hook(_check_spacings)


def _rename_weights(network: nn.Module, state_dict: dict[str, Any], prefix: str, *_: Any) -> None:
    for old, new in _RENAMED.items():
        old_prefix = prefix + old
        names = [name for name in state_dict if name.startswith(old_prefix)]
        for name in names:
            rest = name.removeprefix(old_prefix)
            state_dict[prefix + new + rest] = state_dict.pop(name)


def _check_spacings(network: nn.Module, state_dict: dict[str, Any], prefix: str, *_: Any) -> None:
    own = network.get_buffer("spacings")
    saved = state_dict.setdefault(f"{prefix}spacings", own).cpu()
    own = own.to(saved)
    if saved.shape == own.shape and torch.allclose(saved, own, rtol=_TOLERANCE):
        return
    raise ValueError(
        f"the weights were trained with magnifications of {_format(saved)} um per pixel, but the network has "
        f"{_format(own)}; give it the magnifications of the training."
    )


def _format(spacings: Tensor) -> str:
    return ", ".join(f"{mpp:.4g}" for mpp in spacings.tolist())
