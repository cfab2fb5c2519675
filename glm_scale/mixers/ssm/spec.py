"""The spelling `ssm:N`, and what other mixers with a state share of it."""

from __future__ import annotations

from functools import partial

from glm_kernels import parse_pattern
from glm_scale.mixers.contract import Look, MixerError
from glm_scale.mixers.heads import StageSpec
from glm_scale.mixers.ssm.mixing import SSMMixing
from glm_scale.mixers.structure import Structure

USUAL_STATE = 64
"""State expansion N where a spelling gives none."""
_LARGEST_STATE = 2**20


def read_ssm(spelling: str, argument: str | None) -> StageSpec:
    """`ssm`, or `ssm:N` with a state expansion N: its state has N × head_dim numbers a head."""
    structure = first_order("ssm", spelling, argument)
    look = look_by_state("ssm", "#009E73", structure.state)
    return StageSpec(structure.spelling, "outputs", partial(SSMMixing, structure), structure, look)


def look_by_state(family: str, colour: str, state: int | None) -> Look:
    """The look of a mixer with a state expansion; None: the usual one."""
    return Look.of_width(family, colour, state or USUAL_STATE, USUAL_STATE)


def first_order(mixer: str, spelling: str, argument: str | None, state_flops: int = 4) -> Structure:
    """The structure of a mixer that carries one state from token to token, `mixer` or `mixer:N`.

    Raises MixerError for a state expansion that is none.
    """
    state = state_of(mixer, spelling, argument)
    return Structure(spelled(mixer, state), 1, parse_pattern("window:1"), state, state_flops)


def state_of(mixer: str, spelling: str, argument: str | None) -> int:
    """The state expansion N that stands behind the colon, `USUAL_STATE` if none does. Raises MixerError."""
    if argument is None:
        return USUAL_STATE
    if not argument.isdecimal() or not 1 <= int(argument) <= _LARGEST_STATE:
        raise MixerError(
            f"mixer {spelling!r}: {mixer} takes its state expansion, a whole number from 1 to {_LARGEST_STATE}, as in "
            f"{mixer}:128; without one it is {USUAL_STATE}"
        )
    return int(argument)


def spelled(mixer: str, state: int) -> str:
    """The canonical spelling of a mixer with a state."""
    return mixer if state == USUAL_STATE else f"{mixer}:{state}"
