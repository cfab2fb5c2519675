"""The files of a tokenizer as `transformers` reads them: it gives the tokens of training, a beginning token first."""

from __future__ import annotations

import json
from collections.abc import Mapping

from glm_data import Tokenizer
from glm_data.tokenizers.conversion import as_tokenizer_json, beginning
from glm_data.tokenizers.names import CONFIG_NAME, JSON_NAME
from glm_data.tokenizers.sentence_piece import SentencePieceTokenizer

__all__ = ["exported_tokenizer"]

_NOT_TAKEN = ("add_bos_token", "add_eos_token", "auto_map")
"""What a class of its own would do to texts, or would be."""


def exported_tokenizer(tokenizer: Tokenizer) -> Mapping[str, bytes]:
    """tokenizer.json and tokenizer_config.json, content by name. Raises DataError if there are none with its tokens."""
    if isinstance(tokenizer, SentencePieceTokenizer):
        return as_tokenizer_json(tokenizer)
    tree, config = (json.loads(tokenizer.files[name]) for name in (JSON_NAME, CONFIG_NAME))
    bos, eos = config["bos_token"], config["eos_token"]
    # Documents begin with it and are not ended before the model ends them, whatever the tokenizer was made for.
    front = beginning(bos, tokenizer.bos)
    present = tree.get("post_processor") or {}
    parts = present.get("processors", []) if present.get("type") == "Sequence" else [present]
    kept = [part for part in parts if part.get("type") == "ByteLevel"]
    tree["post_processor"] = {"type": "Sequence", "processors": [*kept, front]} if kept else front
    config = {name: value for name, value in config.items() if name not in _NOT_TAKEN}
    config |= {"tokenizer_class": "PreTrainedTokenizerFast", "padding_side": "left"}
    config.setdefault("pad_token", eos)
    return {
        JSON_NAME: json.dumps(tree, ensure_ascii=False).encode(),
        CONFIG_NAME: json.dumps(config, indent=2, ensure_ascii=False).encode(),
    }
