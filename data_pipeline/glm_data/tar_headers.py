"""Headers of tar members, as `tarfile` writes them, in a tenth of the time: shards have two for every document."""

import tarfile

_SIZE, _SUM = slice(124, 136), slice(148, 156)
_LARGEST = 8**11 - 1
"""Bytes that POSIX's eleven octal digits can say."""


def _plain(name: str, size: int) -> bytes:
    member = tarfile.TarInfo(name)
    member.size, member.mode = size, 0o644
    return member.tobuf(tarfile.USTAR_FORMAT)


_TEMPLATE = bytearray(_plain("", 0))
_TEMPLATE[_SIZE], _TEMPLATE[_SUM] = bytes(12), b" " * 8
_TEMPLATE_SUM = sum(_TEMPLATE)


def tar_header(name: str, size: int) -> bytes:
    """The header of a file of `size` bytes, the same on every machine: no times, no users."""
    if size > _LARGEST or len(name) > 100 or not name.isascii():
        return _plain(name, size)
    spelled, digits = name.encode(), b"%011o\0" % size
    header = _TEMPLATE.copy()
    header[: len(spelled)], header[_SIZE] = spelled, digits
    # Every byte counts, those of the sum itself as spaces.
    header[_SUM] = b"%06o\0 " % (_TEMPLATE_SUM + sum(spelled) + sum(digits))
    return bytes(header)
