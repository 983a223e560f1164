# Copyright (c) the monai_jsma contributors.
# SPDX-License-Identifier: Apache-2.0
"""Backbones, attention, sampling and the network that joins them."""

from __future__ import annotations

from .attention import AttentionNetwork, UniformAttention, attention_dropout, log_prior, negative_entropy
from .attention_mil import AttentionMIL, GatedAttention
from .backbones import Backbone, ConvBackbone, build_backbone
from .certified import is_certain, margin_bounds, probability_intervals, read_until_certain, trusted_digits
from .feature_cache import FeatureCache, encoder_hash
from .jsma import JSMANet
from .patches import PatchNetwork, PatchSource, Weights
from .rules import LEARNING_RULES, baseline_bags, check_rule, draw_by_rule, draw_log_prob
from .sampling import (
    ESTIMATORS,
    Draw,
    all_cells,
    draw_cells,
    draw_in_order,
    draw_independently,
    draw_systematically,
    inclusion_probabilities,
    pathwise_weights,
    top_cells,
)

__all__ = [
    "ESTIMATORS",
    "LEARNING_RULES",
    "AttentionMIL",
    "AttentionNetwork",
    "Backbone",
    "ConvBackbone",
    "Draw",
    "FeatureCache",
    "GatedAttention",
    "JSMANet",
    "PatchNetwork",
    "PatchSource",
    "UniformAttention",
    "Weights",
    "all_cells",
    "attention_dropout",
    "baseline_bags",
    "build_backbone",
    "check_rule",
    "draw_by_rule",
    "draw_cells",
    "draw_in_order",
    "draw_independently",
    "draw_log_prob",
    "draw_systematically",
    "encoder_hash",
    "inclusion_probabilities",
    "is_certain",
    "log_prior",
    "margin_bounds",
    "negative_entropy",
    "pathwise_weights",
    "probability_intervals",
    "read_until_certain",
    "top_cells",
    "trusted_digits",
]
