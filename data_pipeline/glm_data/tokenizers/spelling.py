"""What the tokens of a tokenizer.json stand for, and whether texts come back from it as they were.

Byte-level encodings (GPT-2, Radford et al. 2019; Llama 3, Qwen, OLMo) write every byte as a character, so a token's
bytes can be read from its name. Of others a token stands for what it adds to a text when it is decoded behind another.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

Decode = Callable[[list[list[int]]], list[str]]
"""Texts of lists of ids, without control tokens."""

_BYTE = re.compile(r"<0x([0-9A-F]{2})>")


def gives_back_every_text(tree: Mapping[str, Any]) -> bool:
    """Whether a tokenizer.json promises it: bytes are its alphabet, and nothing changes or drops a character."""
    model, decoder = tree.get("model") or {}, tree.get("decoder") or {}
    parts = _parts(tree.get("pre_tokenizer"), "pretokenizers")
    byte_level = [part for part in parts if part.get("type") == "ByteLevel"]
    return (
        not _parts(tree.get("normalizer"), "normalizers")
        and decoder.get("type") == "ByteLevel"
        and len(byte_level) == 1
        and not byte_level[0].get("add_prefix_space")
        and all(_keeps_all(part) for part in parts)
        and model.get("type") == "BPE"
        and not model.get("dropout")
        and set(_CHARACTERS) <= set(model.get("vocab", ()))
        and not any(token.get("lstrip") or token.get("rstrip") for token in tree.get("added_tokens") or [])
    )


def spellings(tree: Mapping[str, Any], tokens: Sequence[str | None], control: set[int], decode: Decode) -> list[bytes]:
    """`[tokens]`: the UTF-8 bytes of each token, none for control tokens and for ids without a token."""
    if any(part.get("type") == "ByteLevel" for part in _parts(tree.get("decoder"), "decoders")):
        added = {int(token["id"]) for token in tree.get("added_tokens") or []}
        spelled = [_bytes_of(token, index in added) for index, token in enumerate(tokens)]
    else:
        spelled = _behind_another(tokens, control, decode)
    return [b"" if index in control else spelling for index, spelling in enumerate(spelled)]


def _bytes_of(token: str | None, added: bool) -> bytes:
    if token is None:
        return b""
    if added or not all(character in _CHARACTERS for character in token):
        return token.encode()
    return bytes(_CHARACTERS[character] for character in token)


def _behind_another(tokens: Sequence[str | None], control: set[int], decode: Decode) -> list[bytes]:
    known = [index for index, token in enumerate(tokens) if token is not None and index not in control]
    alone = dict(zip(known, decode([[index] for index in known]), strict=True))
    # A word that stays as it is when others follow.
    first = next((index for index in known if alone[index].isalnum() and alone[index].isascii()), known[0])
    both = dict(zip(known, decode([[first, index] for index in known]), strict=True))

    def spell(index: int) -> bytes:
        if byte := _BYTE.fullmatch(tokens[index] or ""):
            return bytes([int(byte.group(1), 16)])
        front = alone[first]
        return (both[index][len(front) :] if both[index].startswith(front) else alone[index]).encode()

    found = {index: spell(index) for index in known}
    return [found.get(index, b"") for index in range(len(tokens))]


def _parts(component: Any, name: str) -> list[Mapping[str, Any]]:
    """A component of a tokenizer.json, or the ones that it is a sequence of."""
    if not isinstance(component, Mapping):
        return []
    if component.get("type") == "Sequence":
        return [part for inner in component.get(name) or [] for part in _parts(inner, name)]
    return [component]


def _keeps_all(part: Mapping[str, Any]) -> bool:
    return part.get("type") in ("ByteLevel", "Digits", "Punctuation") or (
        part.get("type") == "Split" and part.get("behavior") != "Removed"
    )


def _byte_characters() -> dict[str, int]:
    """GPT-2's characters for bytes: itself where it can be seen, else the next free ones from U+0100 on."""
    seen = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    unseen = [byte for byte in range(256) if byte not in seen]
    return {chr(byte): byte for byte in seen} | {chr(256 + index): byte for index, byte in enumerate(unseen)}


_CHARACTERS = _byte_characters()
