"""Names for what has none of its own: runs of ladders and sweeps, keys in MLflow, files.

They stand in shells without quotes, in URLs and in MLflow's keys as they are, so they are made of letters, digits and
`-`, `.`, `_` only. What researchers write in formulas becomes words: `lattice:2^k` is called `lattice-2-pow-k`.
"""

from __future__ import annotations

import hashlib
import re
import unicodedata
from pathlib import Path
from types import MappingProxyType
from typing import Any

from glm_scale.run_directory import RunDirectory

_WORDS = MappingProxyType({"^": "pow", "+": "plus", "*": "times", ">": "then"})
# Nothing is lost with these: they only separate, or enclose lists and texts.
_SEPARATORS = re.compile(r"[\s:,;=\[\]'\"]+")
_NEGATIVE = re.compile(r"(?<![\w.)])-(?=\.?\d)")
_LOST = re.compile(r"[^A-Za-z0-9._-]+")
_HASH_DIGITS = 6


def slug(text: str) -> str:
    """`text` as a name, or a part of one: "local:128 > lattice:k^2+1" gives "local-128-then-lattice-k-pow-2-plus-1".

    Where that loses something, such as parentheses or a slash, a short hash of the text tells the names apart.
    """
    named = _NEGATIVE.sub(" minus ", text)
    for symbol, word in _WORDS.items():
        named = named.replace(symbol, f" {word} ")
    named = _SEPARATORS.sub("-", named)
    plain = unicodedata.normalize("NFKD", named).encode("ascii", "ignore").decode()
    short = re.sub("-{2,}", "-", _LOST.sub("-", plain)).strip("-.")
    if _LOST.search(named) or not short:
        return f"{short}-{hashlib.sha256(text.encode()).hexdigest()[:_HASH_DIGITS]}".lstrip("-")
    return short


def setting(key: str, value: Any) -> str:
    """One value of a configuration as a part of a name: "layers4", "device-cpu"."""
    name, worth = key.rsplit(".", 1)[-1], slug(str(value))
    return f"{name}{worth}" if worth[0].isdigit() else f"{name}-{worth}"


def name_in_use(root: Path, name: str, former: str) -> str:
    """`name`, unless only a run is there of the name that an earlier version would have given it."""
    if former != name and RunDirectory(root / former).exists() and not RunDirectory(root / name).exists():
        return former
    return name


def former_slug(text: str) -> str:
    """What earlier versions made of a text: "local:128 > lattice:2^k" gave "local-128-lattice-2^k"."""
    return re.sub(r"[^A-Za-z0-9.+^_]+", "-", text).strip("-")
