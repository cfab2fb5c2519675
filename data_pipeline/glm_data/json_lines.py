"""The text of a JSON object, whatever else the object holds."""

import json
from typing import Any

from glm_data.errors import BadRecordError

_BYTE_ORDER_MARK = "\ufeff"
_KEYS_SHOWN = 8
# Numbers are of no interest here, and Python refuses to read an integer of more than 4,300 digits.
_DECODER = json.JSONDecoder(parse_int=float)
_PAIRS = json.JSONDecoder(parse_int=float, object_pairs_hook=list)


class TextKey:
    """The key of the text in JSON objects: of that name, or "a.b" for the b within an a."""

    def __init__(self, key: str):
        self._key = key
        self._path = key.split(".")

    def text_of(self, record: str) -> str:
        """The text of an object.

        Raises:
            BadRecordError: there is none.
        """
        # Files that were joined bring their marks along.
        record = record.lstrip(_BYTE_ORDER_MARK)
        value = _decoded(record)
        path = [self._key] if self._key in value else self._path
        text = self._at(path, value)
        if not isinstance(text, str):
            raise BadRecordError(f"{self._key!r} is not a text but {_kind(text)}.")
        self._refuse_repeats(path, record)
        if "\\u" in record:  # what was UTF-8 holds no others than those that are written so
            self._refuse_half_pairs(text)
        return text

    def _refuse_half_pairs(self, text: str) -> None:
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise BadRecordError(f"{self._key!r} holds half a surrogate pair at character {error.start + 1}.") from None

    def _at(self, path: list[str], value: Any) -> Any:
        for depth, name in enumerate(path):
            if not isinstance(value, dict) or name not in value:
                known = list(value)[:_KEYS_SHOWN] if isinstance(value, dict) else []
                keys = ", ".join(repr(".".join([*path[:depth], other])) for other in known) or "none"
                raise BadRecordError(f"no key {self._key!r}; its keys are {keys}. Choose one with --text-key.")
            value = value[name]
        return value

    def _refuse_repeats(self, path: list[str], record: str) -> None:
        """JSON allows a key to be there several times, and says nothing of which value counts."""
        if all(record.count(json.dumps(name, ensure_ascii=False)) <= 1 for name in path):
            return
        pairs = _PAIRS.decode(record)
        for name in path:
            values = [value for other, value in pairs if other == name]
            if any(value != values[-1] for value in values):
                raise BadRecordError(f"the key {name!r} is there {len(values)} times, with different values.")
            pairs = values[-1]


def _decoded(record: str) -> dict[str, Any]:
    try:
        value = _DECODER.decode(record)
    except json.JSONDecodeError as error:
        raise BadRecordError(f"not a JSON object: {error.msg} at character {error.pos + 1}.{_hint(record)}") from None
    except RecursionError:
        raise BadRecordError("not a usable JSON object: nested too deeply.") from None
    if not isinstance(value, dict):
        raise BadRecordError(f"not a JSON object but {_kind(value)}.{_hint(record)}")
    return value


def _hint(record: str) -> str:
    """What a file probably is that holds such a line."""
    record = record.strip()
    if record.startswith("["):
        return " If the file is one JSON array, write its elements one a line: jq -c '.[]'."
    if record in ("{", "}", "},"):
        return " If the objects of the file take several lines each, write them one a line: jq -c ."
    if "\r" in record:
        return " If its lines end with a carriage return alone, end them with line feeds: tr '\\r' '\\n'."
    return ""


def _kind(value: object) -> str:
    if value is None:
        return "null"
    return {"list": "a list", "dict": "an object", "str": "a text", "bool": "a truth value"}.get(
        type(value).__name__, "a number"
    )
