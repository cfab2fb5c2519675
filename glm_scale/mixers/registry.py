"""The mixers by the head word of their spelling. A new mixer is one new file and one line here."""

from __future__ import annotations

import contextlib
import difflib
from collections.abc import Callable, Mapping
from functools import lru_cache
from types import MappingProxyType
from typing import NamedTuple

from glm_scale.mixers.attention import read_attention, read_local
from glm_scale.mixers.baselines import read_gated_deltanet, read_gla, read_kda, read_log_linear, read_mamba2
from glm_scale.mixers.composed import compose
from glm_scale.mixers.contract import MixerError, MixerSpec
from glm_scale.mixers.recurrence import read_recurrence
from glm_scale.mixers.ssm import read_ssm


class Registered(NamedTuple):
    """A mixer by its form, as error messages show it, and its reader.

    The reader takes (spelling, what stands behind its ':' or None) and returns the parsed mixer.
    """

    form: str
    read: Callable[[str, str | None], MixerSpec]


MIXERS: Mapping[str, Registered] = MappingProxyType(
    {
        "attention": Registered("attention", read_attention),
        "local": Registered("local:w", read_local),
        "ssm": Registered("ssm:N", read_ssm),
        "window": Registered("window:w", read_recurrence),
        "dense": Registered("dense", read_recurrence),
        "lattice": Registered("lattice:f", read_recurrence),
        "offsets": Registered("offsets:f", read_recurrence),
        "mamba2": Registered("mamba2:N", read_mamba2),
        "gla": Registered("gla:N", read_gla),
        "gated_deltanet": Registered("gated_deltanet:N", read_gated_deltanet),
        "kda": Registered("kda:N", read_kda),
        "log_linear": Registered("log_linear:N", read_log_linear),
    }
)


@lru_cache(maxsize=256)
def parse_mixer(spelling: str) -> MixerSpec:
    """The mixer of a spelling: a form of `MIXERS`, or `A > B`.

    Raises MixerError for a word that is no mixer, PatternError for a pattern that is none; both are ValueErrors.
    """
    parts = [_parse_part(part.strip(), spelling) for part in spelling.split(">")]
    return parts[0] if len(parts) == 1 else compose(spelling, parts)


def parse_hybrid(name: str) -> list[MixerSpec]:
    """The mixers that a model's layers alternate between, from its `ModelConfig.mixer_name`, in which a "+" joins them.

    A "+" stands inside functions as well, as in `lattice:k^2+1+attention`. Raises as `parse_mixer`.
    """
    parts = name.split("+")
    for count in range(1, len(parts)):
        with contextlib.suppress(ValueError):
            return [parse_mixer("+".join(parts[:count])), *parse_hybrid("+".join(parts[count:]))]
    return [parse_mixer(name)]


def _parse_part(part: str, spelling: str) -> MixerSpec:
    head, colon, argument = (piece.strip() for piece in part.partition(":"))
    if head not in MIXERS:
        nearest = difflib.get_close_matches(head, MIXERS, n=1)
        meant = f" (did you mean {MIXERS[nearest[0]].form!r}?)" if nearest else ""
        raise MixerError(
            f"unknown mixer {head!r} in {spelling!r}{meant}; known are {', '.join(m.form for m in MIXERS.values())}, "
            "and an input mixing in front of a recurrence, as in 'local:128 > lattice:2^k'"
        )
    return MIXERS[head].read(part, argument if colon else None)
