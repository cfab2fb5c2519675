"""What a profile says of a trace."""

import gzip
import json
from pathlib import Path

import pytest

from glm_scale.run.train import train
from glm_scale.training.profiling.components import component
from glm_scale.training.profiling.report import describe
from glm_scale.training.profiling.trace import Trace, read_trace
from tests.tiny_run import tiny_config
from tests.whole_runs import config

NAMES = {
    "ncclDevKernel_AllReduce_Sum_bf16": "communication",
    "Memcpy HtoD (Pinned -> Device)": "copies",
    "gradient_pass": "token mixing",
    "chained_forward": "token mixing",
    "cudnn_generated_fort_native_sdpa_sm90_flash_fprop": "attention",
    "nvjet_sm90_tst_256x128_64x4_1x2_h_bz_coopA_NNT": "matrix products",
    "void multi_tensor_apply_kernel<FusedOptimizerTensorListMetadata<4>, FusedAdamMathFunctor<float, 4> >": "optimizer",
    "triton_poi_fused_mul_silu_3": "compiled",
    "void at::native::vectorized_elementwise_kernel<4, FillFunctor<float> >": "other",
}


@pytest.mark.parametrize("name", NAMES)
def test_kernels_belong_to_components(name: str) -> None:
    assert component(name) == NAMES[name]


def gpu_trace(path: Path) -> Trace:
    """Two steps of 100 µs: 40 of a product in the forward phase; 20 of a reduction, 10 of them beside another product
    of 10, in the backward phase, which the GPU begins 5 µs after it was idle."""
    events: list[dict] = []
    for step in (0, 100):
        spans = [("ProfilerStep#1", step, 100), ("forward", step, 10), ("backward", step + 10, 30)]
        events += [{"ph": "X", "cat": "user_annotation", "name": n, "ts": t, "dur": d} for n, t, d in spans]
        kernels = [("nvjet_a", 2, 5, 40), ("ncclDevKernel", 12, 50, 20), ("nvjet_b", 15, 60, 10)]
        for number, (name, launched, start, length) in enumerate(kernels):
            link = {"correlation": 10 * step + number}
            events += [
                {"ph": "X", "cat": "cuda_runtime", "name": "launch", "ts": step + launched, "dur": 1, "args": link},
                {"ph": "X", "cat": "kernel", "name": name, "ts": step + start, "dur": length, "args": link},
            ]
    with gzip.open(path, "wt") as file:
        json.dump({"traceEvents": events}, file)
    return read_trace(path)


def test_work_counts_in_the_phase_that_started_it(tmp_path: Path) -> None:
    trace = gpu_trace(tmp_path / "trace.json.gz")
    assert trace.on_gpu
    assert [(w.name, w.phase) for w in trace.work[:3]] == [
        ("nvjet_a", "forward"), ("ncclDevKernel", "backward"), ("nvjet_b", "backward"),
    ]  # fmt: skip
    page = describe(trace)
    assert "Where 2 steps of 0.1 ms went" in page
    assert "| matrix products | 0.04 | 0.01 |  |  | 0.05 | 50.0 % |" in page
    assert "Busy (GPU): 0.1 ms a step, 60.0%" in page
    # Half of the reduction is hidden behind a product.
    assert "Communication that nothing else hides: 0.0 ms" in page


def test_a_run_can_be_looked_at(data: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    tree = tiny_config(data, tmp_path)
    tree["training"]["tokens"] *= 2
    run = config(tree)
    assert train(run, profile=True).status == "finished"
    folder = run.run_root / run.name / "profile"
    page = (folder / "report.md").read_text()
    assert "# Where 3 steps of" in page
    assert "| token mixing |" in page
    assert (folder / "trace.json.gz").exists()
    assert f"looked at 3 steps: {folder}/report.md" in capfd.readouterr().out
    short = config(tiny_config(data, tmp_path), name="short")
    train(short, profile=True)
    assert "no profile: it needs 11 steps, and there were 6" in capfd.readouterr().out
    assert not (short.run_root / "short" / "profile").exists()
