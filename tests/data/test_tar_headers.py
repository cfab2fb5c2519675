"""Headers of tar members: those of `tarfile`, byte for byte."""

import tarfile

import pytest

from glm_data.tar_headers import tar_header


@pytest.mark.parametrize("name", ["a", "train-0000000001.tokens.npy", "x" * 100, "folder/" * 10 + "y" * 90, "é.json"])
@pytest.mark.parametrize("size", [0, 1, 511, 4096, 123_456_789, 8**11 - 1])
def test_a_header_is_what_tarfile_writes(name: str, size: int) -> None:
    member = tarfile.TarInfo(name)
    member.size, member.mode = size, 0o644
    assert tar_header(name, size) == member.tobuf(tarfile.USTAR_FORMAT)
