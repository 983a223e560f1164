# Copyright (c) the monai_jsma contributors.
# SPDX-License-Identifier: Apache-2.0
"""Encoders of pathology by short name: what their authors say they need, one entry for each.

Nothing here is guessed: an entry holds what the model card, the authors' own repository, or a tool that loads the
released file strictly states, and ``source`` names it. A model whose facts could not be found is not in the table.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from typing import Any

__all__ = ["ENCODERS", "FAMILIES", "EncoderCard", "find_card", "suggest_encoders"]

Channels = tuple[float, float, float]

_IMAGENET = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
_HALF = (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)
_BIOPTIMUS = (0.707223, 0.578729, 0.703617), (0.211883, 0.230117, 0.177517)
_HIBOU = (0.7068, 0.5755, 0.722), (0.195, 0.2316, 0.1816)
_LUNIT = (0.70322989, 0.53606487, 0.66096631), (0.21716536, 0.26081574, 0.20723464)

_SWIGLU = {"mlp_layer": "SwiGLUPacked", "act_layer": "silu"}
_NON_COMMERCIAL = "CC-BY-NC-ND-4.0"


@dataclass(frozen=True, kw_only=True)
class EncoderCard:
    """What one encoder is, and what it needs.

    Attributes:
        name: the short name.
        hub: its repository on the Hugging Face hub.
        num_features: length of the feature of a patch.
        pooling: what is its feature: ``"token"``, the class token; ``"token_mean"``, the class token and behind it the
            mean of the patch tokens; ``"attention"``, what its attention pooling gives.
        mpp: spacings it was trained on or is offered for, in um per pixel.
        size: height and width of its input, in pixels.
        normalization: mean and standard deviation of its input; None: what its ``config.json`` states.
        architecture: the name of timm's model of the same layers; None: its ``config.json`` describes the layers.
        options: keywords of that model, as JSON can hold them.
        interpolation: how other sizes become ``size``.
        resize: side that other sizes are brought to before their center of ``size`` is cut out; None: ``size`` itself.
        gated: whether its terms must be accepted on the hub before a download.
        license: of the weights.
        source: where these facts are from.
    """

    name: str
    hub: str
    num_features: int
    pooling: str
    mpp: tuple[float, ...]
    size: int = 224
    normalization: tuple[Channels, Channels] | None = _IMAGENET
    architecture: str | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    interpolation: str = "bicubic"
    resize: int | None = None
    gated: bool
    license: str
    source: str

    @property
    def page(self) -> str:
        """Address of the model card."""
        return f"https://huggingface.co/{self.hub}"


_CARDS = (
    EncoderCard(
        name="uni",
        hub="MahmoodLab/UNI",
        architecture="vit_large_patch16_224",
        options={"init_values": 1e-5},
        num_features=1024,
        pooling="token",
        mpp=(0.5,),
        interpolation="bilinear",
        gated=True,
        license=_NON_COMMERCIAL,
        source="mahmoodlab/UNI README, mahmoodlab/TRIDENT; mpp: clemsgrs/slide2vec model zoo",
    ),
    EncoderCard(
        name="uni2-h",
        hub="MahmoodLab/UNI2-h",
        architecture="vit_giant_patch14_224",
        options={
            "img_size": 224,
            "patch_size": 14,
            "depth": 24,
            "num_heads": 24,
            "init_values": 1e-5,
            "embed_dim": 1536,
            "mlp_ratio": 2.66667 * 2,
            "no_embed_class": True,
            "reg_tokens": 8,
            **_SWIGLU,
        },
        num_features=1536,
        pooling="token",
        mpp=(0.5,),
        interpolation="bilinear",
        gated=True,
        license=_NON_COMMERCIAL,
        source="mahmoodlab/UNI README; mpp: clemsgrs/slide2vec model zoo",
    ),
    EncoderCard(
        name="virchow",
        hub="paige-ai/Virchow",
        architecture="vit_huge_patch14_224",
        options={"img_size": 224, "init_values": 1e-5, "mlp_ratio": 5.3375, **_SWIGLU},
        num_features=2560,
        pooling="token_mean",
        mpp=(0.5,),
        gated=True,
        license="Apache-2.0",
        source="model card; layers: mahmoodlab/TRIDENT",
    ),
    EncoderCard(
        name="virchow2",
        hub="paige-ai/Virchow2",
        architecture="vit_huge_patch14_224",
        options={"img_size": 224, "init_values": 1e-5, "mlp_ratio": 5.3375, "reg_tokens": 4, **_SWIGLU},
        num_features=2560,
        pooling="token_mean",
        mpp=(0.25, 0.5, 1.0, 2.0),
        gated=True,
        license=_NON_COMMERCIAL,
        source="arXiv:2408.00738, mahmoodlab/TRIDENT; mpp: clemsgrs/slide2vec model zoo",
    ),
    EncoderCard(
        name="h-optimus-0",
        hub="bioptimus/H-optimus-0",
        architecture="vit_giant_patch14_reg4_dinov2",
        options={"img_size": 224, "init_values": 1e-5},
        num_features=1536,
        pooling="token",
        mpp=(0.5,),
        normalization=_BIOPTIMUS,
        gated=True,
        license="Apache-2.0",
        source="bioptimus/releases README; mahmoodlab/TRIDENT",
    ),
    EncoderCard(
        name="h-optimus-1",
        hub="bioptimus/H-optimus-1",
        architecture="vit_giant_patch14_reg4_dinov2",
        options={"img_size": 224, "init_values": 1e-5},
        num_features=1536,
        pooling="token",
        mpp=(0.5,),
        normalization=_BIOPTIMUS,
        gated=True,
        license=_NON_COMMERCIAL,
        source="mahmoodlab/TRIDENT; mpp: clemsgrs/slide2vec model zoo",
    ),
    EncoderCard(
        name="h0-mini",
        hub="bioptimus/H0-mini",
        options=_SWIGLU,
        num_features=1536,
        pooling="token_mean",
        mpp=(0.5,),
        normalization=None,
        gated=True,
        license=_NON_COMMERCIAL,
        source="rendeirolab/lazyslide-models, mahmoodlab/TRIDENT; mpp: docs.bioptimus.com",
    ),
    EncoderCard(
        name="prov-gigapath",
        hub="prov-gigapath/prov-gigapath",
        architecture="vit_giant_patch14_dinov2",
        options={
            "img_size": 224,
            "patch_size": 16,
            "embed_dim": 1536,
            "depth": 40,
            "num_heads": 24,
            "mlp_ratio": 5.33334,
        },
        num_features=1536,
        pooling="token",
        mpp=(0.5,),
        resize=256,
        gated=True,
        license="Apache-2.0",
        source="prov-gigapath/prov-gigapath demo; layers: mahmoodlab/TRIDENT; mpp: clemsgrs/slide2vec model zoo",
    ),
    EncoderCard(
        name="phikon",
        hub="owkin/phikon",
        num_features=768,
        pooling="token",
        mpp=(0.5,),
        interpolation="bilinear",
        gated=False,
        license="Owkin non-commercial",
        source="mahmoodlab/TRIDENT; mpp: clemsgrs/slide2vec model zoo",
    ),
    EncoderCard(
        name="phikon-v2",
        hub="owkin/phikon-v2",
        num_features=1024,
        pooling="token",
        mpp=(0.5,),
        interpolation="bilinear",
        gated=False,
        license="Owkin non-commercial",
        source="mahmoodlab/TRIDENT; mpp: RamonKaspar/wsistream recipes",
    ),
    EncoderCard(
        name="hibou-b",
        hub="histai/hibou-b",
        num_features=768,
        pooling="token",
        mpp=(0.5,),
        normalization=_HIBOU,
        gated=True,
        license="Apache-2.0",
        source="HistAI/hibou README, rendeirolab/lazyslide-models; mpp: clemsgrs/slide2vec model zoo",
    ),
    EncoderCard(
        name="hibou-l",
        hub="histai/hibou-L",
        num_features=1024,
        pooling="token",
        mpp=(0.5,),
        normalization=_HIBOU,
        gated=True,
        license="Apache-2.0",
        source="mahmoodlab/TRIDENT, rendeirolab/lazyslide-models; mpp: clemsgrs/slide2vec model zoo",
    ),
    EncoderCard(
        name="midnight-12k",
        hub="kaiko-ai/midnight",
        num_features=3072,
        pooling="token_mean",
        mpp=(0.25, 0.5, 1.0, 2.0),
        normalization=_HALF,
        interpolation="bilinear",
        gated=False,
        license="MIT",
        source="mahmoodlab/TRIDENT; mpp: clemsgrs/slide2vec model zoo",
    ),
    EncoderCard(
        name="kaiko-vits16",
        hub="1aurent/vit_small_patch16_224.kaiko_ai_towards_large_pathology_fms",
        architecture="vit_small_patch16_224",
        num_features=384,
        pooling="token",
        mpp=(0.5,),
        normalization=_HALF,
        interpolation="bilinear",
        gated=False,
        license="Kaiko non-commercial",
        source="kaiko-ai/towards_large_pathology_fms; hub and mpp: mahmoodlab/TRIDENT",
    ),
    EncoderCard(
        name="kaiko-vits8",
        hub="1aurent/vit_small_patch8_224.kaiko_ai_towards_large_pathology_fms",
        architecture="vit_small_patch8_224",
        num_features=384,
        pooling="token",
        mpp=(0.5,),
        normalization=_HALF,
        interpolation="bilinear",
        gated=False,
        license="Kaiko non-commercial",
        source="kaiko-ai/towards_large_pathology_fms; hub and mpp: mahmoodlab/TRIDENT",
    ),
    EncoderCard(
        name="kaiko-vitb16",
        hub="1aurent/vit_base_patch16_224.kaiko_ai_towards_large_pathology_fms",
        architecture="vit_base_patch16_224",
        num_features=768,
        pooling="token",
        mpp=(0.5,),
        normalization=_HALF,
        interpolation="bilinear",
        gated=False,
        license="Kaiko non-commercial",
        source="kaiko-ai/towards_large_pathology_fms; hub and mpp: mahmoodlab/TRIDENT",
    ),
    EncoderCard(
        name="kaiko-vitb8",
        hub="1aurent/vit_base_patch8_224.kaiko_ai_towards_large_pathology_fms",
        architecture="vit_base_patch8_224",
        num_features=768,
        pooling="token",
        mpp=(0.5,),
        normalization=_HALF,
        interpolation="bilinear",
        gated=False,
        license="Kaiko non-commercial",
        source="kaiko-ai/towards_large_pathology_fms; hub and mpp: mahmoodlab/TRIDENT",
    ),
    EncoderCard(
        name="lunit-dino-vits16",
        hub="1aurent/vit_small_patch16_224.lunit_dino",
        architecture="vit_small_patch16_224",
        num_features=384,
        pooling="token",
        mpp=(0.5,),
        normalization=_LUNIT,
        gated=False,
        license="Lunit non-commercial",
        source="lunit-io/benchmark-ssl-pathology, kaiko-ai/eva; mpp: clemsgrs/slide2vec model zoo",
    ),
    EncoderCard(
        name="lunit-dino-vits8",
        hub="1aurent/vit_small_patch8_224.lunit_dino",
        architecture="vit_small_patch8_224",
        num_features=384,
        pooling="token",
        mpp=(0.5,),
        normalization=_LUNIT,
        gated=False,
        license="Lunit non-commercial",
        source="lunit-io/benchmark-ssl-pathology, kaiko-ai/eva; mpp: clemsgrs/slide2vec model zoo",
    ),
    EncoderCard(
        name="conch",
        hub="MahmoodLab/CONCH",
        architecture="vit_base_patch16_224",
        options={"img_size": 448},
        num_features=512,
        pooling="attention",
        mpp=(0.5,),
        size=448,
        gated=True,
        license=_NON_COMMERCIAL,
        source="mahmoodlab/CONCH; pooling without projection: mahmoodlab/TRIDENT; mpp: clemsgrs/slide2vec model zoo",
    ),
)

ENCODERS: Mapping[str, EncoderCard] = {card.name: card for card in _CARDS}

# Names of several models, and the one of them that the example of its authors' README loads.
FAMILIES: Mapping[str, str] = {"hibou": "hibou-b", "kaiko": "kaiko-vits16", "lunit-dino": "lunit-dino-vits16"}


def find_card(name: str) -> EncoderCard | None:
    """The encoder of a short name or of a family's name; None if there is none of that name.

    Example::

        >>> find_card("virchow2").num_features, find_card("kaiko").name, find_card("resnet18")
        (2560, 'kaiko-vits16', None)
    """
    return ENCODERS.get(FAMILIES.get(name, name))


def suggest_encoders(name: str) -> list[str]:
    """Short names that may be meant by another spelling, the nearest first.

    Example::

        >>> suggest_encoders("UNI2_h")
        ['uni2-h', 'uni']
    """
    names = [*ENCODERS, *FAMILIES]
    plain = {_simplify(known): known for known in reversed(names)}
    typed = _simplify(name)
    matches = get_close_matches(typed, plain, n=3, cutoff=0.75)
    return [plain[match] for match in matches]


def _simplify(name: str) -> str:
    return name.lower().replace("_", "").replace("-", "")
