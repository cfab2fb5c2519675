"""Which tokens of a tokenizer.json begin and end a document.

The file itself does not say. What lies beside it does, in a model of Hugging Face; where nothing does, tokens are known
by the names that the families of models give them. A tokenizer with an end token alone, as GPT-2's, begins documents
with it, too: a model always has something to predict the first token from.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from glm_data.errors import DataError, unreadable
from glm_data.tokenizers.names import CONFIG_NAME, JSON_NAME

_BESIDE = (CONFIG_NAME, "special_tokens_map.json", "config.json", "generation_config.json")
_BEGINNING = ("bos_token", "cls_token")
_END = ("eos_token", "sep_token")

# Of Llama 1 and 2, Llama 3, OLMo, Gemma, BERT.
_KNOWN_PAIRS = (
    ("<s>", "</s>"),
    ("<|begin_of_text|>", "<|end_of_text|>"),
    ("<bos>", "<eos>"),
    ("[BOS]", "[EOS]"),
    ("[CLS]", "[SEP]"),
    ("<|endoftext|>", "<|endoftext|>"),
)
_SHOWN = 8
"""Special tokens that an error lists."""


@dataclass(frozen=True)
class SpecialTokens:
    """The tokens that begin and end a document, as texts. `config`: what tokenizer_config.json said, if anything."""

    bos: str
    eos: str
    config: Mapping[str, Any]


def special_tokens(path: Path, content: bytes, bos: str | None, eos: str | None) -> SpecialTokens:
    """Of the tokenizer.json `content` at `path`; what is asked for comes before what is found.

    Raises:
        DataError: nothing says how a document begins and ends, or a file beside it is damaged.
    """
    ids = _ids_of_tokens(content, path)
    # Any other name may lie among files that are none of its business.
    beside = {name: _read(path.parent / name) for name in _BESIDE} if path.name == JSON_NAME else {}
    eos = eos or _said(beside, _END, ids) or _known(ids, bos)[1]
    bos = bos or _said(beside, _BEGINNING, ids) or _known(ids, eos)[0] or eos
    if bos is None or eos is None:
        special = _special(content)
        more = f" and {len(special) - _SHOWN} more" if len(special) > _SHOWN else ""
        raise DataError(
            f"{path}: nothing says which tokens begin and end a document. Name them: --bos-token and --eos-token. "
            f"Its special tokens are: {', '.join(special[:_SHOWN]) or 'none'}{more}."
        )
    for option, token in (("--bos-token", bos), ("--eos-token", eos)):
        if token not in ids:
            raise DataError(f"{path}: has no token {token!r} ({option}, or what the files beside it say).")
    return SpecialTokens(bos, eos, beside.get(CONFIG_NAME) or {})


def _said(beside: Mapping[str, Mapping[str, Any]], keys: tuple[str, ...], ids: Mapping[str, int]) -> str | None:
    """By the first file that says it: a text, a group with `content`, or an id, of one or several."""
    tokens = {index: token for token, index in ids.items()}
    for key in keys:
        for content in beside.values():
            value = content.get(key)
            if isinstance(value, Mapping):
                value = value.get("content")
            if isinstance(value, str) and value:
                return value
            number = content.get(f"{key}_id")
            if isinstance(number, list) and number:
                number = number[0]
            if isinstance(number, int) and number in tokens:
                return tokens[number]
    return None


def _known(ids: Mapping[str, int], partner: str | None) -> tuple[str | None, str | None]:
    """A pair that the vocabulary has, of which `partner` is one if it is given."""
    for pair in _KNOWN_PAIRS:
        if all(token in ids for token in pair) and (partner is None or partner in pair):
            return pair
    return None, None


def _ids_of_tokens(content: bytes, path: Path) -> dict[str, int]:
    tree = _parsed(content, path)
    model = tree.get("model")
    vocabulary = model.get("vocab") if isinstance(model, dict) else None
    if not isinstance(vocabulary, dict | list):
        raise DataError(f"{path}: not a tokenizer of Hugging Face's `tokenizers`: it has no model with a vocabulary.")
    # Unigram models list pairs of a token and its score.
    pairs = vocabulary.items() if isinstance(vocabulary, dict) else _numbered(vocabulary)
    ids = {token: index for token, index in pairs if isinstance(token, str) and isinstance(index, int)}
    for added in tree.get("added_tokens") or []:
        ids[str(added.get("content"))] = int(added.get("id", -1))
    return ids


def _numbered(vocabulary: list[Any]) -> Iterator[tuple[Any, int]]:
    for index, entry in enumerate(vocabulary):
        yield (entry[0] if isinstance(entry, list) and entry else None), index


def _special(content: bytes) -> list[str]:
    return [str(t.get("content")) for t in json.loads(content).get("added_tokens") or [] if t.get("special")]


def _read(path: Path) -> dict[str, Any]:
    try:
        return _parsed(path.read_bytes(), path)
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise unreadable(path, error) from error


def _parsed(content: bytes, path: Path) -> dict[str, Any]:
    try:
        tree = json.loads(content)
    except ValueError as error:
        raise DataError(f"{path}: damaged: {error}.") from error
    if not isinstance(tree, dict):
        raise DataError(f"{path}: damaged: a {type(tree).__name__} where there should be an object.")
    return tree
