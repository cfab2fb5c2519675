import json

import pytest

from glm_kernels import bench

SMALL = ["--lengths", "96", "--heads", "1", "--width", "8", "--rounds", "1"]


def test_the_report_is_json_with_ratios_to_attention(capsys):
    assert (
        bench.main(["lattice:2^k", "ssm", "--lengths", "96", "--heads", "1", "--width", "8", "--rounds", "1", "--json"])
        == 0
    )
    report = json.loads(capsys.readouterr().out)
    assert [t["operator"] for t in report["timings"]] == ["attention", "lattice:2^k", "ssm"]
    assert report["timings"][0]["speed_vs_attention"] == 1
    assert all(0 < t["forward_ms"] < t["forward_backward_ms"] for t in report["timings"])
    assert "torch" in report["machine"]


def test_an_operator_that_computes_something_else_is_not_timed(monkeypatch: pytest.MonkeyPatch, capsys):
    right = bench.call

    def nearly(operator, q, k, v, gate, backend="auto"):
        y = right(operator, q, k, v, gate, backend)
        return y * 1.001 if operator == "window:4" and backend != "reference" else y

    monkeypatch.setattr(bench, "call", nearly)
    assert (
        bench.main(["window:4", "lattice:2^k", "--lengths", "64", "--heads", "1", "--width", "8", "--rounds", "1"]) == 1
    )
    printed = capsys.readouterr()
    assert "window:4: WRONG" in printed.err
    assert "window:4" not in printed.out
    assert "lattice:2^k" in printed.out
