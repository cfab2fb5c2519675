import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from glm_scale.errors import UserError
from glm_scale.training import distributed


def test_quiet_catches_what_this_process_and_its_children_write(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    os.write(1, b"before\n")
    with distributed.quiet(tmp_path / "log"):
        os.write(1, b"from a library\n")
        os.write(2, b"its warning\n")
        subprocess.run([sys.executable, "-c", "print('from a child')"], check=True)
    os.write(1, b"after\n")
    assert capfd.readouterr().out == "before\nafter\n"
    assert (tmp_path / "log").read_text().splitlines() == ["from a library", "its warning", "from a child"]


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_a_missing_gpu_is_told_with_the_way_out() -> None:
    assert distributed.resolve_device("auto") == torch.device("cpu")
    with pytest.raises(UserError, match=r"training\.device=cpu"):
        distributed.resolve_device("cuda")


@pytest.mark.usefixtures("process_group")
def test_starting_leaves_nothing_that_tells_children_they_were_launched() -> None:
    assert torch.distributed.get_world_size() == 1
    assert not {"RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"} & set(os.environ)


def test_the_first_start_is_recognised(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH_EXTENSIONS_DIR", str(tmp_path))
    cpu = torch.device("cpu")
    assert distributed.first_start_compiles(cpu)
    (tmp_path / "deepspeed_shm_comm").mkdir()
    (tmp_path / "deepspeed_shm_comm" / "deepspeed_shm_comm_op.so").write_bytes(b"")
    assert not distributed.first_start_compiles(cpu)
