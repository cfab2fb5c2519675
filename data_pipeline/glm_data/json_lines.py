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
    """The key of the text in JSON objects."""

    def __init__(self, key: str):
        self._key = key
        self._quoted = json.dumps(key, ensure_ascii=False)

    def text_of(self, record: str) -> str:
        """The text of an object.

        Raises:
            BadRecordError: there is none.
        """
        # Files that were joined bring their marks along.
        record = record.lstrip(_BYTE_ORDER_MARK)
        key, value = self._key, _decoded(record)
        if key not in value:
            keys = ", ".join(repr(name) for name in list(value)[:_KEYS_SHOWN]) or "none"
            raise BadRecordError(f"no key {key!r}; its keys are {keys}. Choose one with --text-key.")
        text = value[key]
        if not isinstance(text, str):
            raise BadRecordError(f"{key!r} is not a text but {_kind(text)}.")
        if record.count(self._quoted) > 1:
            texts = [other for name, other in _PAIRS.decode(record) if name == key]
            if any(other != text for other in texts):
                raise BadRecordError(f"the key {key!r} is there {len(texts)} times, with different values.")
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise BadRecordError(f"{key!r} holds half a surrogate pair at character {error.start + 1}.") from None
        return text


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
