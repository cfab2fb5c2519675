"""The configuration of a language model."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from glm_data.settings import Settings
from glm_scale.layers.rotary import Rotary
from glm_scale.mixers import MixerDims, MixerSpec, parse_mixer

# The product of any three, in bytes, is one that torch can still count.
Size = Annotated[int, Field(ge=1, le=2**20)]


class ModelConfig(Settings):
    """Sizes and mixers of a model. Sizes count numbers, not bytes.

    `mixers` repeats through the depth: layer i has mixer i modulo the length of the list. What a mixer has of its own,
    such as the state expansion of `ssm:128`, stands in its spelling. `head_dim` defaults to
    width / heads; `mlp_width` to 8/3 of the width rounded up to a multiple of 64, which gives the gated MLP the
    weights of a plain one four times as wide as the model (Touvron et al. 2023, arXiv 2302.13971).
    """

    vocab_size: Size
    layers: Annotated[int, Field(ge=1, le=10_000)]
    width: Size
    heads: Size
    kv_heads: Size | None = None
    """Keys and values of attention, each for as many heads together (Ainslie et al. 2023, arXiv 2305.13245); null: as
    many as there are heads."""
    qk_norm: bool = False
    """Whether queries and keys of attention and of recurrences are normalised, head by head, before they are turned
    (Henry et al. 2020, arXiv 2010.04245; with weights as in Chameleon, arXiv 2405.09818)."""
    head_dim: Size | None = None
    mixers: Annotated[tuple[str, ...], Field(min_length=1)] = ("lattice:2^k",)
    mlp_width: Size | None = None
    conv_width: Annotated[int, Field(ge=0)] = 0
    """Tokens of the short convolution in front of every mixer, the token itself among them; 0 for none."""
    tie_embeddings: bool = False
    rotary_base: Annotated[float, Field(gt=1)] = 10000.0
    norm_eps: Annotated[float, Field(gt=0, lt=1)] = 1e-5
    parametrization: Literal["standard", "mup"] = "standard"
    """`mup`: initial weights, and what learning rates mean, are those of a model `base_width` wide and `base_layers`
    deep (null: as deep as this one), scaled to this one's size as `model.parametrization` says."""
    base_width: Size | None = None
    base_layers: Annotated[int, Field(ge=1, le=10_000)] | None = None

    @field_validator("mixers", mode="before")
    @classmethod
    def _one_mixer_is_a_list(cls, mixers: object) -> object:
        return (mixers,) if isinstance(mixers, str) else mixers

    @field_validator("mixers")
    @classmethod
    def _canonical_spellings(cls, mixers: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(parse_mixer(spelling).name for spelling in mixers)

    @field_validator("conv_width")
    @classmethod
    def _convolution_reaches_back(cls, conv_width: int) -> int:
        if conv_width == 1:
            raise ValueError("conv_width 1 would read no earlier row; 0 means no convolution, 4 is usual")
        return conv_width

    @model_validator(mode="after")
    def _base_belongs_to_mup(self) -> ModelConfig:
        if self.parametrization == "standard":
            if self.base_width is not None or self.base_layers is not None:
                raise ValueError("base_width and base_layers belong to parametrization: mup; leave them out")
            return self
        if self.base_width is None:
            raise ValueError(
                "parametrization: mup needs base_width, the width of the model whose learning rate is known, as 256"
            )
        for what, count in (("heads", self.heads), ("kv_heads", self.kv_heads or 0)):
            if count * self.base_width % self.width:
                raise ValueError(
                    f"base_width {self.base_width} of width {self.width} would have {count * self.base_width}/"
                    f"{self.width} of {count} {what}; take one that gives a whole number"
                )
        return self

    @model_validator(mode="after")
    def _sizes_fit(self) -> ModelConfig:
        if self.head_dim is None and self.width % self.heads:
            below = max(n for n in range(1, self.heads + 1) if self.width % n == 0)
            raise ValueError(
                f"width {self.width} does not divide into {self.heads} heads; "
                f"take {below} heads, a width of {-(-self.width // self.heads) * self.heads}, or give head_dim"
            )
        self._check_kv_heads()
        if self.head_size % 2:
            given = "head_dim" if self.head_dim is not None else f"width {self.width} / heads {self.heads} ="
            raise ValueError(f"{given} {self.head_size} is odd, but rotary embeddings turn pairs of numbers")
        return self

    def _check_kv_heads(self) -> None:
        if self.kv_heads is None:
            return
        if self.heads % self.kv_heads:
            several = [n for n in range(1, self.heads + 1) if self.heads % n == 0]
            raise ValueError(
                f"kv_heads {self.kv_heads} does not divide the {self.heads} heads; those that do are "
                f"{', '.join(map(str, several))}"
            )
        structures = [spec.structure for spec in map(parse_mixer, self.mixers)]
        if all(structure is None or structure.input_width == 1 for structure in structures):
            raise ValueError(
                f"kv_heads {self.kv_heads} is of attention and local:w, and none of the mixers "
                f"{', '.join(self.mixers)} is one; leave it out"
            )

    @property
    def heads_together(self) -> int:
        """Of attention, how many have a key and a value together."""
        return self.heads // (self.kv_heads or self.heads)

    @property
    def head_size(self) -> int:
        """Numbers a head, given or derived."""
        return self.head_dim or self.width // self.heads

    @property
    def mlp_size(self) -> int:
        """Hidden units of the MLP, given or derived."""
        return self.mlp_width or -(-8 * self.width // (3 * 64)) * 64

    @property
    def mixer_name(self) -> str:
        """The mixers in one word, for tags and legends: `lattice:2^k+attention` for a hybrid of two."""
        return "+".join(self.mixers)

    def layer_mixers(self) -> list[MixerSpec]:
        """The mixer of every layer, from the bottom."""
        return [parse_mixer(self.mixers[layer % len(self.mixers)]) for layer in range(self.layers)]

    def mixer_dims(self) -> MixerDims:
        """What a mixer is built from."""
        return MixerDims(
            width=self.width,
            heads=self.heads,
            kv_heads=self.kv_heads,
            qk_norm=self.qk_norm,
            head_dim=self.head_size,
            rotary=Rotary(self.head_size, self.rotary_base),
            norm_eps=self.norm_eps,
        )
