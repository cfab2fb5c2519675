"""Small tokenizers of Hugging Face's `tokenizers`, one of each family, trained on the spot."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from pathlib import Path

from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

ByteLevel = pre_tokenizers.ByteLevel
# What Llama 3 splits text by, in short.
_WORDS = Regex(r"[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+")


def gpt2(texts: Iterable[str]) -> Tokenizer:
    """BPE of bytes, with one token that begins and ends a document."""
    made = Tokenizer(models.BPE())
    made.pre_tokenizer, made.decoder = ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    return _trained(made, texts, _byte_pairs(["<|endoftext|>"]))


def llama3(texts: Iterable[str]) -> Tokenizer:
    """BPE of bytes within words that an expression finds."""
    made = Tokenizer(models.BPE(ignore_merges=True))
    words = pre_tokenizers.Split(_WORDS, "isolated")
    made.pre_tokenizer = pre_tokenizers.Sequence([words, ByteLevel(add_prefix_space=False, use_regex=False)])
    made.decoder = decoders.ByteLevel()
    return _trained(made, texts, _byte_pairs(["<|begin_of_text|>", "<|end_of_text|>"]))


def bert(texts: Iterable[str]) -> Tokenizer:
    """WordPiece of words in lower case."""
    made = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    made.normalizer, made.pre_tokenizer = normalizers.BertNormalizer(), pre_tokenizers.BertPreTokenizer()
    made.decoder = decoders.WordPiece()
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    return _trained(made, texts, trainers.WordPieceTrainer(vocab_size=400, special_tokens=special, show_progress=False))


def unigram(texts: Iterable[str]) -> Tokenizer:
    """A unigram model with spaces as U+2581, one of them in front."""
    made = Tokenizer(models.Unigram())
    made.normalizer, made.pre_tokenizer = normalizers.NFKC(), pre_tokenizers.Metaspace()
    made.decoder = decoders.Metaspace()
    trainer = trainers.UnigramTrainer(
        vocab_size=400, special_tokens=["<unk>", "<s>", "</s>"], unk_token="<unk>", show_progress=False
    )
    return _trained(made, texts, trainer)


FAMILIES: dict[str, Callable[[Iterable[str]], Tokenizer]] = {
    "gpt2": gpt2, "llama3": llama3, "bert": bert, "unigram": unigram,
}  # fmt: skip
EXACT = ("gpt2", "llama3")


def saved(tokenizer: Tokenizer, folder: Path, **beside: object) -> Path:
    """tokenizer.json in a folder, and other files with the objects given, by name without `.json`."""
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    for name, content in beside.items():
        (folder / f"{name}.json").write_text(json.dumps(content))
    return folder


def _byte_pairs(special: list[str]) -> trainers.BpeTrainer:
    return trainers.BpeTrainer(
        vocab_size=400, special_tokens=special, initial_alphabet=ByteLevel.alphabet(), show_progress=False
    )


def _trained(tokenizer: Tokenizer, texts: Iterable[str], trainer: trainers.Trainer) -> Tokenizer:
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer
