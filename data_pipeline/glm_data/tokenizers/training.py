"""Training of byte-pair tokenizers with SentencePiece, the same on every machine."""

import io
import math
import re
from collections import Counter
from collections.abc import Iterable, Iterator

import numpy as np
import sentencepiece

from glm_data.errors import DataError
from glm_data.tokenizers.sentence_piece import SPACE, SentencePieceTokenizer

# Whole tokens of their own: SentencePiece would otherwise spell them byte by byte. They merge with nothing, so a
# text can be tokenised line by line.
WHITESPACE_TOKENS = ["\n", "\n\n", "\t"]
SMALLEST_VOCABULARY = 300  # 256 bytes, three control tokens, whitespace, and a few letters
LARGEST_VOCABULARY = 1 << 20

_SPECIAL_TOKENS = 3 + len(WHITESPACE_TOKENS) + 256
_CHARACTER_COVERAGE = 0.9995  # of the text; rarer characters are spelled in bytes
_LONGEST_SENTENCE = 4096  # characters
# Characters that SentencePiece keeps for itself: it would drop every sentence that holds one.
_RESERVED = str.maketrans(dict.fromkeys(["\0", "\t", "\r", SPACE, "\u2585"], "\n"))


def default_vocabulary_size(text_bytes: int) -> int:
    """A vocabulary that suits a corpus: the square root of its bytes as a power of two, from 512 to 65536.

    The number of distinct words of a text grows like the square root of its length (Heaps' law), and up to 65536
    ids fit in two bytes.
    """
    exponent = round(math.log2(max(text_bytes, 1)) / 2)
    return 1 << min(max(exponent, 9), 16)


def train_tokenizer(texts: Iterable[str], vocabulary_size: int) -> SentencePieceTokenizer:
    """Train a byte-pair encoding (Sennrich et al., 2016) with byte fallback and exact round trip.

    The result depends on the texts, their order and the size alone: one thread, no sampling within.

    Args:
        texts: documents; they are cut at line ends, as no token but the newlines reaches across one.
        vocabulary_size: number of tokens wanted; a text too small to fill it gives fewer.

    Raises:
        DataError: the size is out of range, or the texts hold nothing to learn from.
    """
    if not SMALLEST_VOCABULARY <= vocabulary_size <= LARGEST_VOCABULARY:
        raise DataError(
            f"A vocabulary of {vocabulary_size} tokens is out of range: {SMALLEST_VOCABULARY} to {LARGEST_VOCABULARY}."
        )
    sentences = [sentence for text in texts for sentence in _sentences(text)]
    if not sentences:
        raise DataError("The text to train the tokenizer on holds nothing but white space.")
    sentences = _without_rare_characters(sentences, vocabulary_size)
    model = io.BytesIO()
    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(sentences),
            model_writer=model,
            model_type="bpe",
            vocab_size=vocabulary_size,
            hard_vocab_limit=False,
            character_coverage=1.0,
            byte_fallback=True,
            normalization_rule_name="identity",
            add_dummy_prefix=False,
            remove_extra_whitespaces=False,
            allow_whitespace_only_pieces=True,
            split_digits=True,
            user_defined_symbols=WHITESPACE_TOKENS,
            max_sentence_length=8 * _LONGEST_SENTENCE,
            input_sentence_size=0,
            shuffle_input_sentence=False,
            num_threads=1,  # the count is written into the model
            minloglevel=2,
        )
    except (RuntimeError, OSError, ValueError) as error:
        raise DataError(f"The tokenizer cannot be trained with {vocabulary_size} tokens: {error}") from error
    return SentencePieceTokenizer(model.getvalue(), "the trained tokenizer")


def _sentences(text: str) -> Iterator[str]:
    for line in text.translate(_RESERVED).split("\n"):
        while len(line) > _LONGEST_SENTENCE:
            end = line.rfind(" ", 1, _LONGEST_SENTENCE)
            end = end if end > 0 else _LONGEST_SENTENCE
            yield line[:end]
            line = line[end:]
        if line:
            yield line


def _without_rare_characters(sentences: list[str], vocabulary_size: int) -> list[str]:
    """Cut sentences at characters that are to be spelled in bytes.

    The rarest ones are, and in a script of thousands of characters as many as do not fit into half of the
    vocabulary. SentencePiece's own `character_coverage` knows no such limit and fails on small vocabularies.
    """
    counts: Counter[str] = Counter()
    for sentence in sentences:
        counts.update(sentence)
    room = max((vocabulary_size - _SPECIAL_TOKENS) // 2, 1)
    ranked = counts.most_common()
    covered = np.cumsum([count for _, count in ranked])
    enough = int(np.searchsorted(covered, _CHARACTER_COVERAGE * covered[-1])) + 1
    rare = "".join(character for character, _ in ranked[min(enough, room) :])
    if not rare:
        return sentences
    cut = re.compile(f"[{re.escape(rare)}]+")
    return [part for sentence in sentences for part in cut.split(sentence) if part]
