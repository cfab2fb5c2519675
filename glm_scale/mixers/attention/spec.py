"""The spellings `attention` and `local:w`."""

from __future__ import annotations

from functools import partial

from glm_scale.mixers.attention.mixing import AttentionMixing
from glm_scale.mixers.contract import Look, MixerError
from glm_scale.mixers.heads import StageSpec
from glm_scale.mixers.structure import Structure


def read_attention(spelling: str, argument: str | None) -> StageSpec:
    """`attention`: every token of the document up to and including the token itself."""
    if argument is not None:
        raise MixerError(f"mixer {spelling!r}: attention takes no argument; windowed attention is local:{argument}")
    return _attention("attention", None, Look("attention", "#0072B2"))


def read_local(spelling: str, argument: str | None) -> StageSpec:
    """`local:w`: the token itself and the w − 1 tokens before it."""
    if argument is None or not argument.isdecimal() or int(argument) < 1:
        raise MixerError(
            f"mixer {spelling!r}: local needs a whole number of tokens ≥ 1, the token itself included, as in local:128"
        )
    look = Look.of_width("local", "#56B4E9", int(argument), usual=16)
    return _attention(f"local:{int(argument)}", int(argument), look)


def _attention(name: str, window: int | None, look: Look) -> StageSpec:
    structure = Structure(name, input_width=window, pattern=None)
    return StageSpec(name, "inputs", partial(AttentionMixing, structure), structure, look)
