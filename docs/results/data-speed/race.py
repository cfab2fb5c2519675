"""`glm-scale data build` against datatrove's tokenise pipeline and a bare loop of `encode_batch`, in turns.

    race.py --books books.jsonl.bz2 --datatrove /path/to/venv/bin/python --folder build/race --rounds 5

The text is cut into documents of a few thousand bytes, with which a byte-level BPE of 32,000 tokens is trained. Each
program is one command, timed from its start to its end with all processes that it starts; each round runs all of them.
"""

import argparse
import bz2
import ctypes
import json
import os
import random
import resource
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

FILES = 4
END = "<|endoftext|>"
SUBREAPER = 36  # of prctl: processes whose parent has ended become this one's, and count

DATATROVE = """
import sys
from datatrove.executor import LocalPipelineExecutor
from datatrove.pipeline.readers import JsonlReader
from datatrove.pipeline.tokens import DocumentTokenizer
if __name__ == "__main__":
    text, tokenizer, output, end, shuffle = sys.argv[1:]
    steps = [
        JsonlReader(text),
        DocumentTokenizer(
            output, tokenizer_name_or_path=tokenizer, eos_token=end, shuffle_documents=shuffle == "shuffled"
        ),
    ]
    LocalPipelineExecutor(steps, tasks=2, workers=2, logging_dir=output + "/logs").run()
"""
BARE = """
import json, sys
from pathlib import Path
import tokenizers
tokenizer, batch = tokenizers.Tokenizer.from_file(sys.argv[2]), []
def encode():
    count = sum(len(found.ids) for found in tokenizer.encode_batch(batch, add_special_tokens=False))
    batch.clear()
    return count
total = 0
for path in sorted(Path(sys.argv[1]).glob("*.jsonl")):
    for line in path.open("rb"):
        batch.append(json.loads(line)["text"])
        if len(batch) == 1000:
            total += encode()
print(total + encode())
"""


def documents(books: Path, megabytes: float) -> Iterator[str]:
    random_, left = random.Random(0), megabytes * 1e6
    with bz2.open(books, "rt") as file:
        for line in file:
            text, at = json.loads(line)["text"], 0
            while at < len(text):
                size = min(max(int(random_.lognormvariate(7.9, 0.9)), 100), 60_000)
                if text[at : at + size].strip():
                    yield text[at : at + size]
                at, left = at + size, left - size
                if left < 0:
                    return


def write_text(books: Path, megabytes: float, folder: Path) -> None:
    folder.mkdir(parents=True)
    files = [(folder / f"{number}.jsonl").open("w") for number in range(FILES)]
    for number, text in enumerate(documents(books, megabytes)):
        files[number % FILES].write(json.dumps({"text": text}) + "\n")
    for file in files:
        file.close()


def train(text: Path, output: Path) -> None:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    made, levels = Tokenizer(models.BPE()), pre_tokenizers.ByteLevel
    made.pre_tokenizer, made.decoder = levels(add_prefix_space=False), decoders.ByteLevel()
    trainer = trainers.BpeTrainer(vocab_size=32_000, special_tokens=[END], initial_alphabet=levels.alphabet())
    with (text / "0.jsonl").open() as lines:
        made.train_from_iterator((json.loads(line)["text"] for line in lines), trainer)
    made.save(str(output))


def timed(name: str, command: list[str], log: Path, **environment: str) -> dict[str, object]:
    """Seconds of wall clock and of processors, by the process and all that it starts."""
    before, begin = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    with log.open("w") as said:
        subprocess.run(command, stdout=said, stderr=said, check=True, env={**os.environ, **environment})
    wall = time.perf_counter() - begin
    while True:
        try:
            os.wait()
        except ChildProcessError:
            break
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return {"program": name, "wall": round(wall, 2), "cpu": round(cpu, 2), "load": round(os.getloadavg()[0], 1)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--books", type=Path, required=True, help="JSON lines, .bz2")
    parser.add_argument("--datatrove", required=True, help="the Python that has datatrove")
    parser.add_argument("--megabytes", type=float, default=float("inf"), help="of text; all of it without")
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--rounds", type=int, default=5)
    asked = parser.parse_args()
    ctypes.CDLL(None).prctl(SUBREAPER, 1, 0, 0, 0)
    text, tokenizer, output = (asked.folder / name for name in ("text", "tokenizer.json", "output"))
    if not text.exists():
        write_text(asked.books, asked.megabytes, text)
    if not tokenizer.exists():
        train(text, tokenizer)
    scripts = {name: asked.folder / f"{name}.py" for name in ("trove", "bare")}
    scripts["trove"].write_text(DATATROVE)
    scripts["bare"].write_text(BARE)
    said = [str(text), str(tokenizer)]
    build = [sys.executable, "-m", "glm_launch.cli.app", "data", "build", "-i", said[0], "--tokenizer", said[1]]
    build += ["--bos-token", END, "--eos-token", END, "--workers", "2", "-o", str(output)]
    trove = [asked.datatrove, str(scripts["trove"]), *said, str(output), END]
    for _ in range(asked.rounds):
        for name, command, environment in (
            ("data build", build, {}),
            ("datatrove", [*trove, "as-is"], {"TOKENIZERS_PARALLELISM": "false"}),
            ("datatrove, its defaults", [*trove, "shuffled"], {}),
            ("encode_batch", [sys.executable, str(scripts["bare"]), *said], {}),
        ):
            shutil.rmtree(output, ignore_errors=True)
            print(json.dumps(timed(name, command, asked.folder / "log", **environment)), flush=True)


if __name__ == "__main__":
    main()
