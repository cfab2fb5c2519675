"""What doctor says of GPUs, their driver and compilers."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

from glm_launch.doctor import Asked, gpu


class TestGPU:
    @pytest.fixture(autouse=True)
    def machine(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
        """Without GPU and driver, in the folder that is returned."""
        monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
        monkeypatch.setattr(gpu, "_DEVICES", tmp_path)
        monkeypatch.setattr(gpu, "_DRIVER", tmp_path / "version")
        return tmp_path

    def test_none_is_no_problem(self, asked: Asked) -> None:
        for check in (gpu.gpus, gpu.driver, gpu.nccl, gpu.triton_kernel):
            assert check(asked).state == "not applicable"
        assert "srun" in gpu.gpus(asked).way_out

    def test_one_that_a_torch_for_cpus_cannot_use_is(
        self, asked: Asked, machine: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (machine / "nvidia0").touch()
        monkeypatch.setattr(torch.version, "cuda", None)
        found = gpu.gpus(asked)
        assert found.state == "problem"
        assert "CPUs only" in found.says

    def test_one_that_the_job_was_not_given_is_no_problem(
        self, asked: Asked, machine: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (machine / "nvidia0").touch()
        monkeypatch.setattr(gpu, "_may_be_opened", lambda device: False)
        assert gpu.gpus(asked).state == "not applicable"

    def test_hidden_ones_are_told(self, asked: Asked, machine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        (machine / "nvidia0").touch()
        monkeypatch.setattr(torch.version, "cuda", "13.0")
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
        assert gpu.gpus(asked).state == "warning"

    @pytest.mark.parametrize(("version", "state"), [("570.133.20", "problem"), ("580.65.06", "ok")])
    def test_the_driver_is_held_to_torch_s_cuda(
        self, asked: Asked, machine: Path, monkeypatch: pytest.MonkeyPatch, version: str, state: str
    ) -> None:
        monkeypatch.setattr(torch.version, "cuda", "13.0")
        (machine / "version").write_text(
            f"NVRM version: NVIDIA UNIX x86_64 Kernel Module  {version}  Wed Jul 16 2025\n"
        )
        found = gpu.driver(asked)
        assert (found.state, version in found.says) == (state, True)

    @pytest.mark.skipif(os.environ.get("TRITON_INTERPRET") != "1", reason="needs Triton's interpreter")
    def test_the_kernel_s_numbers_are_looked_at(self, asked: Asked, monkeypatch: pytest.MonkeyPatch) -> None:
        from glm_launch.doctor import triton_probe

        assert triton_probe.product_is_right("cpu")
        monkeypatch.setattr(torch, "equal", lambda a, b: False)
        monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
        right = triton_probe.product_is_right
        monkeypatch.setattr(triton_probe, "product_is_right", lambda device: right("cpu"))
        assert "wrong numbers" in gpu.triton_kernel(asked).says

    def test_a_missing_compiler_is_a_warning(self, asked: Asked, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("CC", "no-such-compiler")
        found = gpu.triton_kernel(asked)
        assert (found.state, "no-such-compiler" in found.says) == ("warning", True)
