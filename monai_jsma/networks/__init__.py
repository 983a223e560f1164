# Copyright (c) the monai_jsma contributors.
# SPDX-License-Identifier: Apache-2.0
"""The network, its attention, samplers and encoders, and the rival that reads all patches."""

from __future__ import annotations

from ._torchvision import ensure_torchvision_before_timm
from .attention_mil import AttentionMIL, GatedAttention
from .backbones import Backbone, ConvBackbone, EncoderLike, Weights, build_backbone
from .certified import LinearHead, is_certain, margin_bounds, probability_intervals, trusted_digits
from .classifier import BagClassifier, MultiLabelClassifier, OrdinalClassifier
from .compiling import compile_backbones
from .confident import Confident
from .drawing import (
    ESTIMATORS,
    Draw,
    all_cells,
    baseline_bags,
    draw_cells,
    draw_equally,
    draw_in_order,
    draw_independently,
    draw_log_prob,
    draw_systematically,
    inclusion_probabilities,
    pathwise_weights,
    top_cells,
    weighted_sum,
)
from .encoder_cards import ENCODERS, EncoderCard
from .feature_cache import FeatureCache, FeatureStore, encoder_hash
from .graph_export import Reading, describe_sampler, export_network
from .graphs import PatchGraph, ThumbnailGraph
from .jsma import (
    AttentionNetwork,
    JSMANet,
    UniformAttention,
    attention_dropout,
    log_prior,
    negative_entropy,
)
from .loading import read_class_names
from .logistic import fit_logistic
from .parameter_groups import make_parameter_groups
from .patch_encoder import PatchEncoder, PatchSource
from .samplers import (
    AllPatches,
    AttentionTree,
    Certified,
    Draws,
    LeaveOneOut,
    PatchReader,
    PathDraw,
    Pathwise,
    Prefix,
    Sample,
    Sampler,
    TopK,
    TrainingSampler,
)
from .standardizing import FeatureStandardizer
from .thumbnail_cache import ThumbnailCache
from .zoom import ZoomNet, ZoomStage, tissue_log_prior
from .zoom_tree import NodeAttention, RegionSource, ZoomTree

__all__ = [
    "ENCODERS",
    "ESTIMATORS",
    "AllPatches",
    "AttentionMIL",
    "AttentionNetwork",
    "AttentionTree",
    "Backbone",
    "BagClassifier",
    "Certified",
    "Confident",
    "ConvBackbone",
    "Draw",
    "Draws",
    "EncoderCard",
    "EncoderLike",
    "FeatureCache",
    "FeatureStandardizer",
    "FeatureStore",
    "GatedAttention",
    "JSMANet",
    "LeaveOneOut",
    "LinearHead",
    "MultiLabelClassifier",
    "NodeAttention",
    "OrdinalClassifier",
    "PatchEncoder",
    "PatchGraph",
    "PatchReader",
    "PatchSource",
    "PathDraw",
    "Pathwise",
    "Prefix",
    "Reading",
    "RegionSource",
    "Sample",
    "Sampler",
    "ThumbnailCache",
    "ThumbnailGraph",
    "TopK",
    "TrainingSampler",
    "UniformAttention",
    "Weights",
    "ZoomNet",
    "ZoomStage",
    "ZoomTree",
    "all_cells",
    "attention_dropout",
    "baseline_bags",
    "build_backbone",
    "compile_backbones",
    "describe_sampler",
    "draw_cells",
    "draw_equally",
    "draw_in_order",
    "draw_independently",
    "draw_log_prob",
    "draw_systematically",
    "encoder_hash",
    "export_network",
    "fit_logistic",
    "inclusion_probabilities",
    "is_certain",
    "log_prior",
    "make_parameter_groups",
    "margin_bounds",
    "negative_entropy",
    "pathwise_weights",
    "probability_intervals",
    "read_class_names",
    "tissue_log_prior",
    "top_cells",
    "trusted_digits",
    "weighted_sum",
]

ensure_torchvision_before_timm()

_REMOVED = {
    "LEARNING_RULES": "the samplers LeaveOneOut, Prefix and Pathwise",
    "PatchNetwork": "PatchEncoder, which JSMANet and AttentionMIL hold",
    "check_rule": "the samplers, which check themselves",
    "draw_by_rule": "the method draw of LeaveOneOut, Prefix, Pathwise and AllPatches",
    "read_until_certain": "the sampler Certified",
}


def __getattr__(name: str) -> object:
    if name not in _REMOVED:
        raise AttributeError(f"module '{__name__}' has no attribute '{name}'")
    raise ImportError(f"'{name}' of version 0.1 was replaced by {_REMOVED[name]}.")
