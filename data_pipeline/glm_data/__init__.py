"""From text to packed sequences of tokens. Knows no model.

`build` turns text into a data set on disk; `PackedSequences` and `batches` read it back in an order that is a pure
function of the configuration and a sample number. Names are imported when first used: the build needs no torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from glm_data.build_config import BuildConfig
    from glm_data.builder import build
    from glm_data.errors import DataError
    from glm_data.index import DatasetIndex, load_index
    from glm_data.loader import Batch, batches, start_early
    from glm_data.sequences import DataConfig, PackedSequence, PackedSequences, SourceConfig
    from glm_data.tokenizers.contract import Tokenizer
    from glm_data.tokenizers.loading import load_tokenizer
    from glm_data.tokenizers.training import train_tokenizer

_HOMES = {
    "Batch": "loader",
    "BuildConfig": "build_config",
    "DataConfig": "sequences",
    "DataError": "errors",
    "DatasetIndex": "index",
    "PackedSequence": "sequences",
    "PackedSequences": "sequences",
    "SourceConfig": "sequences",
    "Tokenizer": "tokenizers.contract",
    "batches": "loader",
    "build": "builder",
    "load_index": "index",
    "load_tokenizer": "tokenizers.loading",
    "start_early": "loader",
    "train_tokenizer": "tokenizers.training",
}

__all__ = [
    "Batch",
    "BuildConfig",
    "DataConfig",
    "DataError",
    "DatasetIndex",
    "PackedSequence",
    "PackedSequences",
    "SourceConfig",
    "Tokenizer",
    "batches",
    "build",
    "load_index",
    "load_tokenizer",
    "start_early",
    "train_tokenizer",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
