"""Two tasks that ask for what the text has said, with as much text in between as one likes.

`recall_needle`: four facts among documents of other things, of which one is asked for at the end ("needle in a
haystack", as RULER's multi-key task, Hsieh et al. 2024, arXiv 2404.06654). `recall_pairs`: a list of pairs of words,
then some of the first words again, each of which wants its partner (multi-query associative recall, Arora et al. 2023,
arXiv 2312.04927, in words). The answer is one of four words that the text has all given to something, so that guessing
is right in a quarter of the cases, and knowing which words are likely does not help.

The length of a question is counted in tokens of the model's tokenizer, the answer included; questions follow from the
task, the length and the number of the question alone.
"""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import NamedTuple

from glm_scale.errors import UserError
from glm_scale.evaluation.words import ADJECTIVES, NAMES, NOUNS, paragraph

__all__ = ["CHOICES", "QUESTIONS", "RECALL_TASKS", "Question", "questions", "recall_name"]

CHOICES = 4
QUESTIONS = 100
"""Of each length, unless a limit says less."""
_QUERIES = 4
"""In a text of pairs; the earlier ones stand in front with their answers."""

Count = Callable[[str], int]
"""Tokens of a text."""


class Question(NamedTuple):
    """A text, and the words one of which goes on with it: that of the place `answer`."""

    context: str
    choices: tuple[str, ...]
    answer: int


def recall_name(task: str, length: int) -> str:
    """What a task at a context length is called."""
    return f"{task}_{length}"


def questions(task: str, length: int, count: Count, number: int = QUESTIONS) -> list[Question]:
    """The first so many questions of `recall_needle` or `recall_pairs` of at most `length` tokens, and nearly so many.

    Raises UserError if a question cannot be so short.
    """
    return [RECALL_TASKS[task](Random(f"{task}/{length}/{index}"), length, count, index) for index in range(number)]


def _needle(draw: Random, length: int, count: Count, index: int) -> Question:
    names, words = draw.sample(NAMES, CHOICES), draw.sample(NOUNS, CHOICES)
    facts = [f"The secret word of {name} is {word}." for name, word in zip(names, words, strict=True)]
    asked = draw.randrange(CHOICES)
    ending = f"The secret word of {names[asked]} is"
    longest = max(words, key=count)

    def text(sentences: list[str]) -> str:
        # Documents of four sentences; the facts are at the same relative places however many there are.
        whole = list(sentences)
        for place, fact in sorted(zip(places, facts, strict=True), reverse=True):
            whole.insert(round(place * len(sentences)), fact)
        documents = [" ".join(whole[begin : begin + 4]) for begin in range(0, len(whole), 4)]
        return "\n\n".join([*documents, ending])

    places = [draw.random() for _ in facts]
    drawn: list[str] = []
    room = length - count(f"{text([])} {longest}")
    while room > 0:
        drawn += paragraph(draw, 4)
        room -= count(" ".join(drawn[-4:]))
    kept = _most("recall_needle", len(drawn), lambda kept: count(f"{text(drawn[:kept])} {longest}") <= length, length)
    return Question(text(drawn[:kept]), tuple(words), asked)


def _pairs(draw: Random, length: int, count: Count, index: int) -> Question:
    # Questions of one text follow one another.
    draw = Random(f"recall_pairs/{length}/text {index // _QUERIES}")
    every = [f"{adjective} {noun}" for adjective in ADJECTIVES for noun in NOUNS]
    one = count(f"{every[0]}: {NOUNS[0]}\n") or 1
    keys = draw.sample(every, min(len(every), max(CHOICES, length // max(one // 2, 1))))
    values = [draw.choice(NOUNS) for _ in keys]
    # The first ones, which are there in any case, are asked about, and have values of their own.
    values[:CHOICES] = draw.sample(NOUNS, CHOICES)
    order = list(range(len(keys)))
    draw.shuffle(order)
    queries = index % _QUERIES + 1

    def text(kept: int) -> str:
        pairs = [f"{keys[i]}: {values[i]}" for i in order if i < kept]
        asked = [f"{keys[i]}: {values[i]}" for i in range(queries - 1)]
        return "\n".join([*pairs, "", *asked, f"{keys[queries - 1]}:"])

    longest = max(values[:CHOICES], key=count)

    def fits(more: int) -> bool:
        return count(f"{text(CHOICES + more)} {longest}") <= length

    kept = _most("recall_pairs", len(keys) - CHOICES, fits, length)
    choices = list(values[:CHOICES])
    answer = choices[queries - 1]
    draw.shuffle(choices)
    return Question(text(CHOICES + kept), tuple(choices), choices.index(answer))


def _most(task: str, most: int, fits: Callable[[int], bool], length: int) -> int:
    """The largest number up to `most` that fits, where less fits more easily. Raises UserError if 0 does not."""
    if not fits(0):
        raise UserError(f"{task}: {length} tokens are too few for a question; give a larger --context-lengths")
    low, high = 0, most
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if fits(middle) else (low, middle - 1)
    return low


RECALL_TASKS: dict[str, Callable[[Random, int, Count, int], Question]] = {
    "recall_needle": _needle,
    "recall_pairs": _pairs,
}
