"""Small corpora and data sets for the tests."""

import json
import random
from pathlib import Path
from typing import Any

import webdataset

from glm_data import BuildConfig, DatasetIndex, build, load_index
from glm_data.inputs import find_files
from glm_data.text import Documents, Reading, parse, read_blocks

_WORDS = """
    the of and to in a is that for it was on are as with his they at be this from have or by one had not but what all
    were when we there can an your which their said if do will each about how up out them then she many some so these
""".split()  # noqa: SIM905


def document(random_: random.Random, words: int) -> str:
    """A text with paragraphs, gaps, tabs, and characters that a tokenizer may stumble over."""
    pieces = []
    for _ in range(words):
        pieces.append(random_.choice(_WORDS))
        pieces.append(
            random_.choices([" ", "  ", "\n", "\n\n", "\t", " é ", " ▁ ", " 🜁", ", "], [80, 1, 4, 2, 1, 1, 1, 1, 9])[0]
        )
    return "".join(pieces)


def documents(count: int, seed: int = 0, longest: int = 400) -> list[str]:
    """Distinct documents of very different lengths."""
    random_ = random.Random(seed)
    return [f"{number}. " + document(random_, int(longest ** random_.random())) for number in range(count)]


def write_jsonl(path: Path, texts: list[str], key: str = "text") -> Path:
    """One object a line."""
    path.write_text("".join(json.dumps({key: text}) + "\n" for text in texts))
    return path


def build_corpus(folder: Path, texts: list[str], **settings: object) -> DatasetIndex:
    """Build a data set in `folder / "set"`."""
    folder.mkdir(exist_ok=True, parents=True)
    source = write_jsonl(folder / "corpus.jsonl", texts)
    defaults = {"vocabulary_size": 512, "workers": 1, "shard_bytes": 8000}
    return build(BuildConfig(inputs=[source], output=folder / "set", **(defaults | settings))).index


def build_inputs(output: Path, *inputs: Path, **settings: object) -> DatasetIndex:
    """Build a data set of files and folders, with a small tokenizer and nothing held out."""
    defaults = {"vocabulary_size": 300, "workers": 1, "validation_fraction": 0.0}
    return build(BuildConfig(inputs=list(inputs), output=output, **(defaults | settings))).index


def read_documents(*inputs: Path, **reading: object) -> Documents:
    """The documents of files and folders, block after block. `reading`: as of `Reading`."""
    how = Reading(**reading)  # type: ignore[arg-type]
    result = Documents()
    for file in find_files(list(inputs)).files:
        for block in read_blocks(file, how):
            documents = parse(block, how)
            result.texts += documents.texts
            result.lines += documents.lines
            result.bad += documents.bad
            result.empty += documents.empty
    return result


def contents(directory: Path) -> dict[str, bytes]:
    """Every file of a directory."""
    return {
        path.relative_to(directory).as_posix(): path.read_bytes() for path in directory.rglob("*") if path.is_file()
    }


def read_with_webdataset(directory: Path, split: str) -> list[dict[str, Any]]:
    """The samples of a split, as the library reads them."""
    index = load_index(directory)
    urls = [str(directory / shard.name) for shard in index.splits[split].shards]
    return list(webdataset.WebDataset(urls, shardshuffle=False, empty_check=False).decode())
