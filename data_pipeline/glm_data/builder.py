"""Building a data set: text in; tokenizer, tar shards and index out.

The build reads its input up to three times: to find the documents (see `glm_data.scan`), to train the tokenizer on a
sample, and to tokenise. Which document goes into which shard is known before tokenising, so worker processes tokenise
in any number while this process writes the shards in order; a finished shard leaves an entry in the journal, and a
build that was interrupted continues behind it. The index is written last.
"""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from rich.console import Console

from glm_data.build_config import BuildConfig
from glm_data.build_journal import BuildJournal, discard, locked, remove_shards
from glm_data.build_progress import BuildProgress
from glm_data.errors import DataError
from glm_data.files import remove_unfinished, write_atomically
from glm_data.index import (
    BLOCK_BYTES,
    FORMAT,
    INDEX_NAME,
    Counts,
    DatasetIndex,
    Input,
    check_complete,
    load_index,
)
from glm_data.input_warnings import Remarks, warnings
from glm_data.inputs import InputFile, find_files
from glm_data.parallel import available_processors
from glm_data.round_trip import SAMPLE_BYTES, RoundTrip, round_trip
from glm_data.scan import (
    DROPPED,
    SPLIT_CODES,
    Scan,
    assign_splits,
    file_key,
    sample_documents,
    scan_files,
    selected_blocks,
)
from glm_data.text import parse
from glm_data.tokenization import SplitOutput, tokenise
from glm_data.tokenizers import Tokenizer, load_tokenizer, tokenizer_files
from glm_data.tokenizers.training import (
    default_vocabulary_size,
    train_tokenizer,
)

TOKENIZER_SAMPLE_BYTES = 128_000_000

# A worker process takes about half a second to start: one for each of these many bytes at most.
_SCAN_BYTES_PER_WORKER = 128_000_000
_TOKENISE_BYTES_PER_WORKER = 3_000_000


@dataclass(frozen=True)
class BuildResult:
    """A finished data set, and whether it had been there already."""

    index: DatasetIndex
    up_to_date: bool


def build(config: BuildConfig, console: Console | None = None) -> BuildResult:
    """Build a data set, continue an interrupted build, or find that it is finished.

    The same input and settings give the same files, byte for byte, with any number of workers and after any number of
    interruptions. More than one worker is started by spawning: a script calls this under `if __name__ == "__main__":`.

    Args:
        config: what to do.
        console: for progress; None is silent.

    Raises:
        DataError: bad input, or an output directory that holds something else.
    """
    output = config.output
    try:
        output.mkdir(parents=True, exist_ok=True)
        with locked(output):
            return _Build(config, BuildProgress(console)).run()
    except OSError as error:
        place = error.filename or output
        raise DataError(
            f"{place}: {error.strerror or error}. Mend that and run the same command again: "
            "it continues where it stopped."
        ) from error


class _Build:
    """One run of a build, from the look at the output directory to the index."""

    def __init__(self, config: BuildConfig, progress: BuildProgress):
        self._config = config
        self._progress = progress
        self._output = config.output
        self._journal = BuildJournal(config.output)
        config.check()
        self._inputs = find_files(config.inputs, config.on_bad_record)
        self._files: list[InputFile] = self._inputs.files
        self._given_tokenizer = (
            load_tokenizer(config.tokenizer, config.bos_token, config.eos_token) if config.tokenizer else None
        )
        self._workers = config.workers or available_processors()

    def run(self) -> BuildResult:
        finished = self._look_at_output()
        if finished is not None:
            return BuildResult(finished, up_to_date=True)
        self._journal.begin(self._request)
        scan = self._scan(keep=True)
        splits = assign_splits(scan, self._config.validation_fraction)
        tokenizer = self._tokenizer(scan, splits)
        outputs = self._tokenise(scan, splits, tokenizer)
        found = None if tokenizer.exact else self._round_trip(scan, splits, tokenizer)
        index = self._finish(scan, splits, tokenizer, outputs, found)
        return BuildResult(index, up_to_date=False)

    @cached_property
    def _request(self) -> dict[str, Any]:
        """Everything but the text that decides what the data set becomes, as the index records it."""
        config = self._config
        names_and_sizes = [(file.name, file.size) for file in self._files]
        return {
            "settings": {
                "text_key": config.text_key,
                "document_separator": config.document_separator,
                "on_bad_record": config.on_bad_record,
                "vocabulary_size": config.vocabulary_size,
                "tokenizer": self._given_tokenizer.fingerprint if self._given_tokenizer else None,
                "validation_fraction": config.validation_fraction,
                "shard_bytes": config.shard_bytes,
            },
            "input": {
                "files": len(self._files),
                "bytes": sum(file.size for file in self._files),
                "sha256": hashlib.sha256(repr(names_and_sizes).encode()).hexdigest(),
            },
            "origin": config.origin,
        }

    def _look_at_output(self) -> DatasetIndex | None:
        """The data set that was asked for, if the output holds it already.

        Raises:
            DataError: the output holds something else.
        """
        if not (self._output / INDEX_NAME).exists():
            recorded = self._journal.request()
            if self._journal.exists and self._config.overwrite:
                discard(self._output)
            elif recorded is not None:
                self._refuse_other(recorded, "an unfinished data set")
            elif not self._journal.exists and any(self._output.iterdir()):
                raise DataError(f"{self._output}: holds files that are no data set. Choose another --output.")
            return None
        if self._config.overwrite:
            discard(self._output)
            return None
        index = load_index(self._output)
        check_complete(self._output, index)
        self._refuse_other(
            index.model_dump(mode="json", include={"settings", "input", "origin"}), "a finished data set"
        )
        if self._scan(keep=False).fingerprint != index.documents_sha256:
            raise self._other("a finished data set", "the text of the input has changed")
        self._journal.remove()
        return index

    def _refuse_other(self, recorded: dict[str, Any], what: str) -> None:
        wanted, settings = self._request["settings"], recorded.get("settings", {})
        differences = [
            f"{name} was {settings.get(name)!r} and is now {wanted[name]!r}"
            for name in wanted
            if settings.get(name) != wanted[name]
        ]
        if recorded.get("origin") != self._request["origin"]:
            differences.append(f"the origin was {recorded.get('origin')!r} and is now {self._request['origin']!r}")
        if recorded.get("input") != self._request["input"]:
            differences.append("the input files are others, or of other sizes")
        if differences:
            raise self._other(what, "; ".join(differences))

    def _other(self, what: str, difference: str) -> DataError:
        return DataError(
            f"{self._output}: holds {what} made otherwise: {difference}. Choose another --output, repeat the original "
            "command, or replace it with --overwrite."
        )

    def _scan(self, *, keep: bool) -> Scan:
        config = self._config
        key = f"{file_key(self._files)} {config.reading}"
        scan = Scan.load(self._journal.scan_path, key) if keep else None
        if scan is None:
            size = sum(file.size for file in self._files)
            compressed = any(file.compression for file in self._files)
            workers = min(self._workers, 1 + size // _SCAN_BYTES_PER_WORKER)
            with self._progress.stage("reading", None if compressed else size) as advance:
                scan = scan_files(self._files, config.reading, workers, advance, self._progress.say)
            for warning in warnings(Remarks(self._inputs.remarks, scan.remarks).by_kind):
                self._progress.say(f"warning: {warning}")
            if keep:
                scan.save(self._journal.scan_path, key)
        return scan

    def _tokenizer(self, scan: Scan, splits: np.ndarray) -> Tokenizer:
        if self._given_tokenizer is not None:
            self._keep(self._given_tokenizer)
            return self._given_tokenizer
        if self._journal.has_tokenizer(scan.fingerprint) and tokenizer_files(self._output):
            return load_tokenizer(self._output)
        size = self._config.vocabulary_size or default_vocabulary_size(
            int(scan.sizes[splits != DROPPED].sum(dtype=np.int64))
        )
        self._progress.say(f"training a tokenizer of {size} tokens")
        tokenizer = train_tokenizer(self._sample(scan, splits), size)
        if self._config.vocabulary_size and tokenizer.size < self._config.vocabulary_size:
            self._progress.say(f"the text is too small for {size} tokens: the tokenizer has {tokenizer.size}")
        self._keep(tokenizer)
        self._journal.record_tokenizer(scan.fingerprint)
        return tokenizer

    def _keep(self, tokenizer: Tokenizer) -> None:
        for name in set(tokenizer_files(self._output)) - tokenizer.files.keys():
            (self._output / name).unlink()
        for name, content in tokenizer.files.items():
            write_atomically(self._output / name, content)

    def _sample(self, scan: Scan, splits: np.ndarray) -> Iterator[str]:
        """Texts to train the tokenizer on: never of the validation split, and no more than `TOKENIZER_SAMPLE_BYTES`."""
        chosen = sample_documents(scan, splits, TOKENIZER_SAMPLE_BYTES)
        characters = 0
        for block, span in selected_blocks(self._files, self._config.reading, scan, chosen):
            for text, take in zip(parse(block, self._config.reading).texts, chosen[span], strict=True):
                if take and characters < TOKENIZER_SAMPLE_BYTES:
                    characters += len(text)
                    yield text[:TOKENIZER_SAMPLE_BYTES]

    def _tokenise(self, scan: Scan, splits: np.ndarray, tokenizer: Tokenizer) -> list[SplitOutput]:
        key = hashlib.sha256(f"{scan.fingerprint} {tokenizer.fingerprint}".encode()).hexdigest()
        outputs = {
            code: SplitOutput(
                self._output, self._journal, split, scan, splits, self._config.shard_bytes, tokenizer, key
            )
            for split, code in SPLIT_CODES.items()
        }
        missing = np.concatenate([output.missing_documents() for output in outputs.values()])
        if len(missing):
            size = int(scan.sizes[missing].sum(dtype=np.int64))
            workers = min(self._workers, 1 + size // _TOKENISE_BYTES_PER_WORKER)
            with self._progress.stage("tokenising", size) as advance:
                tokenise(self._files, self._config.reading, scan, splits, outputs, tokenizer, workers, advance)
        return list(outputs.values())

    def _round_trip(self, scan: Scan, splits: np.ndarray, tokenizer: Tokenizer) -> RoundTrip:
        """What becomes of some documents in a tokenizer that does not promise to give them back."""
        chosen = sample_documents(scan, splits, SAMPLE_BYTES)

        def documents() -> Iterator[tuple[str, str]]:
            for block, span in selected_blocks(self._files, self._config.reading, scan, chosen):
                parsed = parse(block, self._config.reading)
                for line, text, take in zip(parsed.lines, parsed.texts, chosen[span], strict=True):
                    if take:
                        yield f"{block.place}:{line}", text[:SAMPLE_BYTES]

        found, first = round_trip(tokenizer, documents())
        if first is not None:
            self._progress.say(
                f"warning: the tokenizer does not give back every text: {found}; {first}. Bits per byte are counted "
                "over the text that it gives back"
            )
        return found

    def _finish(
        self,
        scan: Scan,
        splits: np.ndarray,
        tokenizer: Tokenizer,
        outputs: list[SplitOutput],
        found: RoundTrip | None,
    ) -> DatasetIndex:
        entries = {output.split: output.write_tables() for output in outputs}
        index = DatasetIndex(
            format=FORMAT,
            origin=self._request["origin"],
            dtype=outputs[0].dtype,
            block_bytes=BLOCK_BYTES,
            vocabulary_size=tokenizer.size,
            tokenizer_sha256=tokenizer.fingerprint,
            tokenizer_files=list(tokenizer.files),
            round_trip=found,
            settings=self._request["settings"],
            input=Input.model_validate(self._request["input"]),
            documents_sha256=scan.fingerprint,
            counts=Counts(
                records=scan.records, bad=scan.bad, empty=scan.empty, duplicates=int((splits == DROPPED).sum())
            ),
            splits=entries,
            remarks=Remarks(self._inputs.remarks, scan.remarks).by_kind,
        )
        remove_shards(self._output, keep={shard.name for entry in entries.values() for shard in entry.shards})
        remove_unfinished(self._output)
        write_atomically(self._output / INDEX_NAME, index.dumps())
        self._journal.remove()
        return index
