"""Files that are plainly something else than text in UTF-8, told by their first bytes."""

import codecs
import re

# The longer mark first: UTF-32's begins like UTF-16's.
_ENCODINGS = (
    (codecs.BOM_UTF32_LE, "UTF-32"),
    (codecs.BOM_UTF32_BE, "UTF-32"),
    (codecs.BOM_UTF16_LE, "UTF-16"),
    (codecs.BOM_UTF16_BE, "UTF-16"),
)
_CONTAINERS = (
    (re.compile(rb"\x1f\x8b\x08"), "compressed with gzip; give its name the ending .gz."),
    (re.compile(rb"BZh[1-9]1AY&SY"), "compressed with bzip2; give its name the ending .bz2."),
    (re.compile(rb"\x28\xb5\x2f\xfd"), "compressed with Zstandard; give its name the ending .zst."),
    (re.compile(rb"\xfd7zXZ\0"), "compressed with xz, which is not read here; decompress it: xz -d."),
    (re.compile(rb"PK\x03\x04"), "a ZIP archive; unpack it: unzip."),
    (re.compile(rb"PAR1\x15"), "a Parquet file; give its name the ending .parquet."),
)


def what_else(content: bytes) -> str:
    """What a file that begins with `content` is, with the way out. Empty if it may well be text."""
    for mark, encoding in _ENCODINGS:
        if content.startswith(mark):
            return f"text in {encoding}, not UTF-8. Convert it: iconv -f {encoding} -t UTF-8."
    for magic, what in _CONTAINERS:
        if magic.match(content):
            return f"not text but {what}"
    return ""
