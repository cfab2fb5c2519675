"""`glm-scale bench parallel`: which cases there are, what is measured of one over ranks, the file and the table."""

import json
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from glm_launch.cli.app import app
from glm_scale.bench.parallel import session
from glm_scale.bench.parallel.cases import Case, Setting
from glm_scale.bench.parallel.results import Results
from glm_scale.bench.parallel.run import run_table
from glm_scale.bench.parallel.session import Measured
from glm_scale.errors import UserError
from glm_scale.parallel.collectives.counting import Counted
from glm_scale.parallel.collectives.simulator import SimulatedRank, simulate
from glm_scale.parallel.sequence.costs import Spread

SETTING = Setting(64, 2, 8, "fp32", 1, "cpu")


def test_cases_are_the_ones_that_are_possible_with_one_rank_first() -> None:
    found = SETTING.cases(["lattice:2^k", "gla"], ["scan", "a2a"], [4, 1, 2])
    assert [str(case) for case in found] == [
        "lattice:2^k on 1", "gla on 1", "lattice:2^k scan on 2", "lattice:2^k a2a on 2", "gla scan on 2",
        "gla a2a on 2", "lattice:2^k scan on 4", "gla scan on 4",
    ]  # fmt: skip


def test_auto_is_what_training_takes() -> None:
    found = Setting(131_072, 16, 128, "bf16", 1, "cpu").cases(["lattice:2^k", "lattice:k^2+1"], ["auto", "a2a"], [2])
    assert [str(case) for case in found] == [
        "lattice:2^k scan on 2", "lattice:2^k a2a on 2", "lattice:k^2+1 a2a on 2",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("mixers", "strategies", "ranks", "why"),
    [
        (["ssm"], ["scam"], [2], "--strategies scam: known are auto, scan, ring, a2a"),
        (["ssm"], ["scan"], [3], "--ranks 3: 64 tokens are not shared out evenly"),
        (["log_linear"], ["a2a"], [4], "log_linear cannot be spread over 4 ranks"),
        (["smm"], ["a2a"], [2], "did you mean 'ssm:N'"),
    ],
)
def test_what_is_no_case_is_refused(mixers: list[str], strategies: list[str], ranks: list[int], why: str) -> None:
    with pytest.raises(UserError, match=why):
        SETTING.cases(mixers, strategies, ranks)


def test_what_is_counted_is_what_the_planner_expects(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = tmp_path / "found.json"
    run_table(SETTING.cases(["lattice:2^k"], ["scan", "a2a"], [1, 2]), SETTING, output, seconds=300)
    (call,) = json.loads(output.read_text())["calls"]
    parts = {(part["strategy"], part["ranks"]): Measured.from_json(part) for part in call["parts"]}
    assert set(parts) == {(None, 1), ("scan", 2), ("a2a", 2)}
    with torch.device("meta"):
        mixer = SETTING.mixer("lattice:2^k").spread_parts()[0]
    for strategy in ("scan", "a2a"):
        traffic = mixer.traffic(strategy, Spread(2, 1, 32, 2, 8, 4))
        measured = parts[strategy, 2]
        assert sum(measured.sent.values()) == max(traffic.sent(rank) for rank in range(2))
        assert len(measured.seconds) == 5
        assert min(measured.seconds) > 0
        assert 0 <= measured.error < session.BOUNDS["fp32"]
    told = capsys.readouterr().out
    assert "| lattice:2^k | scan | 2 |" in told
    assert (
        told.index("mixer lattice:2^k  ranks 1") < told.index("mixer lattice:2^k  strategy scan") < told.index("| ---")
    )


def test_one_that_is_wrong_is_not_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session._Layer, "__init__", lambda *_: None)
    monkeypatch.setattr(session._Layer, "error", lambda _: float("inf"))
    with pytest.raises(UserError, match="lattice:2\\^k scan on 2: it differs from one rank's by inf"):
        session.measure(Case("lattice:2^k", "scan", 2), SETTING)


def test_what_is_not_finite_is_wrong() -> None:
    right, wrong = torch.ones(3), torch.tensor([1.0, float("nan"), 1.0])
    assert session._error(right, right) == 0
    assert max(0.0, session._error(wrong, right)) == max(0.0, session._error(right, wrong)) == float("inf")


def test_ranks_that_die_are_followed_by_others(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cases = [Case("lattice:2^k", "nothing", 2), Case("window:2", "a2a", 2)]  # type: ignore[arg-type]
    with pytest.raises(UserError, match=r"nothing on 2 ended its process with exit code 1\. Its last words"):
        run_table(cases, SETTING, tmp_path / "found.json", seconds=300)
    assert "| window:2 | a2a | 2 |" in capsys.readouterr().out


def test_the_table_gives_shares_of_the_ideal_of_an_exchange_for_heads_and_of_what_is_hidden(tmp_path: Path) -> None:
    results = Results(tmp_path / "found.json", "GPU", SETTING)
    results.add(Measured("ssm", None, 1, [8.0, 9.0, 1.0], {}, None, None, 0.0, 2**31))
    results.add(Measured("ssm", "a2a", 4, [4.0], {"all_to_all": 4_000_000}, 2.0, 2.0, 1e-3, 2**30))
    results.add(Measured("ssm", "scan", 4, [2.5], {"all_gather": 30_000, "send": 10_000}, 0.5, 0.1, 1e-3, 2**30))
    assert results.markdown().splitlines()[2:] == [
        "| ssm |  | 1 | 8000.00 | 1.000 |  |  |  |  | 2.0 GiB | 0.0e+00 |",
        "| ssm | a2a | 4 | 4000.00 | 0.500 | 4 MB | 1.0000 | 2000.00 ms | 0% | 1.0 GiB | 1.0e-03 |",
        "| ssm | scan | 4 | 2500.00 | 0.800 | 0.04 MB | 0.0100 | 500.00 ms | 80% | 1.0 GiB | 1.0e-03 |",
    ]


def test_bytes_are_counted_on_their_way() -> None:
    def work(rank: SimulatedRank) -> tuple[dict[str, int], dict[str, int]]:
        counted, x = Counted(rank), torch.arange(6.0).view(3, 2)
        for pending in (counted.all_gather(x), counted.reduce_scatter(x), counted.all_to_all(x)):
            pending.wait()
        counted.send(x, (rank.rank + 1) % 3)
        assert torch.equal(counted.receive(x, (rank.rank - 1) % 3).wait(), x)
        return dict(counted.sent), dict(rank.sent)

    for counted, known in simulate(3, work):
        assert counted == known == {"all_gather": 48, "reduce_scatter": 16, "all_to_all": 16, "send": 24}


def test_more_gpus_than_there_are() -> None:
    gpus = torch.cuda.device_count()
    found = CliRunner().invoke(app, ["bench", "parallel", "--device", "cuda", "--ranks", "64"])
    assert f"--ranks 64, but this machine shows {gpus} CUDA devices" in str(found.exception)
