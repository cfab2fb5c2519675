"""A tokenizer from a file or a folder."""

from __future__ import annotations

from pathlib import Path

from glm_data.errors import DataError, unreadable
from glm_data.tokenizers.contract import Tokenizer
from glm_data.tokenizers.hugging_face import HuggingFaceTokenizer
from glm_data.tokenizers.names import CONFIG_NAME, JSON_NAME, MODEL_NAME
from glm_data.tokenizers.sentence_piece import SentencePieceTokenizer
from glm_data.tokenizers.special_tokens import special_tokens

_OTHER_FORMS = ("vocab.json", "merges.txt", "vocab.txt", "vocab.bpe", "tekken.json", "tiktoken.model")


def load_tokenizer(path: Path | str, bos: str | None = None, eos: str | None = None) -> Tokenizer:
    """Read a SentencePiece model or a tokenizer.json, or what a folder has of them: a data set, a checkpoint, an
    exported model, a model of Hugging Face.

    bos, eos: the tokens that begin and end a document, for a tokenizer.json that nothing beside it says it of.

    Raises:
        DataError: there is no tokenizer, it cannot be read, or it does not say how a document begins and ends.
    """
    path = Path(path)
    if path.is_dir():
        names = tokenizer_files(path)
        if not names:
            raise DataError(f"{path}: {_nothing_in(path)}")
        path = path / names[0]
    try:
        content = path.read_bytes()
    except OSError as error:
        raise unreadable(f"the tokenizer {path}", error) from error
    if path.suffix == ".json" or content[:1] == b"{":
        return HuggingFaceTokenizer(content, special_tokens(path, content, bos, eos), str(path))
    if bos is not None or eos is not None:
        raise DataError(f"{path}: a SentencePiece model knows its beginning and end tokens; name none.")
    return SentencePieceTokenizer(content, str(path))


def tokenizer_files(folder: Path) -> list[str]:
    """Names of the files of a folder that make its tokenizer up, the main one first; none if there is none."""
    if (folder / JSON_NAME).is_file():
        return [name for name in (JSON_NAME, CONFIG_NAME) if (folder / name).is_file()]
    return [MODEL_NAME] if (folder / MODEL_NAME).is_file() else []


def _nothing_in(folder: Path) -> str:
    if others := [name for name in _OTHER_FORMS if (folder / name).exists()]:
        return (
            f'has {", ".join(others)}, but no {JSON_NAME}. Write one: python -c "from transformers import '
            f"AutoTokenizer; AutoTokenizer.from_pretrained('{folder}').save_pretrained('{folder}')\""
        )
    return f"has no tokenizer: neither {MODEL_NAME} nor {JSON_NAME}."
