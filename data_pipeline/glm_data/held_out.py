"""What a validation split is good for, in words: nothing, little, or (no words) enough."""

import math
from collections.abc import Sequence

from glm_data.index import Split

FEW_TOKENS = 20_000
# Losses of single tokens scatter by about so many nats around their mean.
_SCATTER = 2.5


def remark_on(splits: Sequence[Split], sequences: int | None = None) -> str:
    """A remark on the validation splits of the data sets of a run, or of one; empty if there is nothing to say.

    Args:
        splits: what they hold.
        sequences: that they make, if a run says so.
    """
    documents, tokens, text_bytes = (
        sum(getattr(split, name) for split in splits) for name in ("documents", "tokens", "text_bytes")
    )
    if not documents:
        return (
            "there is no validation split, so training goes without a validation loss. To have one, build the data "
            "from two documents or more with --validation-fraction above 0."
        )
    if tokens >= FEW_TOKENS:
        return ""
    packed = "" if sequences is None else f" in {sequences:,} sequence{'s' * (sequences != 1)}"
    return (
        f"the validation split is small: {documents:,} document{'s' * (documents != 1)}, {tokens:,} tokens{packed}, "
        f"{text_bytes:,} bytes of text. Its loss will be noisy: differences below about "
        f"{_SCATTER / math.sqrt(tokens):.2g} nats say nothing. "
        "Hold more out with --validation-fraction, or build from more text."
    )
