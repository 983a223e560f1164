# Copyright (c) the monai_jsma contributors.
# SPDX-License-Identifier: Apache-2.0
"""Keywords of version 0.1 that samplers and encoders replaced: an error names what to write instead."""

from __future__ import annotations

from collections.abc import Mapping

__all__ = ["refuse_removed_options"]

_TRAINING = "sampler=LeaveOneOut(k), Prefix(k), Pathwise(k, estimator=...) or AllPatches()"
_ENCODER = "patch_encoder=PatchEncoder(backbone, {})"

_REPLACEMENTS = {
    "num_patches": f"{_TRAINING}; in evaluation sampler=TopK(k), AllPatches() or Certified()",
    "learning_rule": _TRAINING,
    "estimator": "sampler=Pathwise(k, estimator=...)",
    "centered": "sampler=Pathwise(k, centered=True)",
    "draws": "sampler=Draws(k, repeats)",
    "max_patches": "sampler=Certified(max_patches)",
    "certified_chunk": "sampler=Certified(chunk=...)",
    "thumbnail_backbone": "thumbnail_encoder=...",
    "patch_backbone": "patch_encoder=...",
    "shared_backbone": "one build_backbone(...) as thumbnail_encoder and as backbone of the PatchEncoder",
    "feature_norm": _ENCODER.format("feature_norm=..."),
    "chunk_size": _ENCODER.format("chunk_size=..."),
    "freeze_patch_backbone": _ENCODER.format("frozen=True"),
    "feature_cache": _ENCODER.format("frozen=True, feature_cache=..."),
}


def refuse_removed_options(options: Mapping[str, object]) -> None:
    """Refuse unknown keywords, and name what to write instead of those of version 0.1.

    Args:
        options: keywords that a function does not know.

    Raises:
        TypeError: if there are any.
    """
    for name in options:
        if name in _REPLACEMENTS:
            raise TypeError(f"'{name}' was an option of version 0.1; write {_REPLACEMENTS[name]}.")
        raise TypeError(f"unexpected keyword argument '{name}'.")
