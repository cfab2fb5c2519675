"""Whether documents come back from a tokenizer as they were, where it does not promise that."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import zip_longest
from typing import NamedTuple

from pydantic import BaseModel, ConfigDict

from glm_data.tokenizers import Tokenizer

SAMPLE_BYTES = 1_000_000
"""Of text that is tried."""

_AROUND = 20
"""Characters around the first difference that are shown."""


class RoundTrip(BaseModel):
    """Of so many documents so many came back otherwise."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    documents: int
    changed: int

    def __str__(self) -> str:
        return f"{self.documents - self.changed:,} of {self.documents:,} documents came back from it as they were"


class Change(NamedTuple):
    """The first difference: where, what stood there, and what came back."""

    place: str
    before: str
    after: str

    def __str__(self) -> str:
        return f"first in {self.place}, where {self.before!r} came back as {self.after!r}"


def round_trip(tokenizer: Tokenizer, documents: Iterable[tuple[str, str]]) -> tuple[RoundTrip, Change | None]:
    """Encode and decode documents (place and text)."""
    tried = changed = 0
    first = None
    for place, text in documents:
        tried += 1
        back = tokenizer.decode(tokenizer.encode(text))
        if back != text:
            changed += 1
            first = first or _change(place, text, back)
    return RoundTrip(documents=tried, changed=changed), first


def _change(place: str, text: str, back: str) -> Change:
    at = next(number for number, (one, other) in enumerate(zip_longest(text, back)) if one != other)
    span = slice(max(at - _AROUND, 0), at + _AROUND)
    return Change(place, text[span], back[span])
