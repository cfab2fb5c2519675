"""`glm-scale bench decode`: cases, their check and measurement, what does not fit or fails, the file and the table."""

import json
import sys
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
import torch

from glm_scale.bench.decode import session
from glm_scale.bench.decode.cases import Case, Setting, model_config
from glm_scale.bench.decode.model import random_model, weight_bytes
from glm_scale.bench.decode.results import Results
from glm_scale.bench.decode.run import run_table
from glm_scale.bench.decode.running import outcomes
from glm_scale.bench.decode.session import Measured, RefusedError, measure
from glm_scale.errors import UserError
from glm_scale.model import LanguageModel

SETTING = Setting("tiny", "fp32", steps=2, rounds=2)
CPU = torch.device("cpu")


def tiny(mixer: str = "lattice:2^k") -> LanguageModel:
    return random_model(model_config(mixer, "tiny"), CPU, torch.float32)


def measured(case: str, ms: float) -> Measured:
    return Measured(case, [9.0, ms, 1.0], 600, 200, 2**20, 2**30, 1e6, True, 10, 2.0, 1e-3, 0.0)


def test_cases_come_mixer_by_mixer_and_short_contexts_first() -> None:
    cases = SETTING.cases(["attention", "lattice:k^2+1+ssm"], [64, 1], [100, 50])
    assert [str(case) for case in cases] == [
        f"{mixer}@{context}x{batch}"
        for mixer in ("attention", "lattice:k^2+1+ssm")
        for context in (50, 100)
        for batch in (1, 64)
    ]
    assert [Case.parse(str(case)) for case in cases] == cases


@pytest.mark.parametrize(
    ("mixers", "batches", "contexts", "size", "why"),
    [
        (["atention"], [1], [100], "tiny", "--mixers: .*did you mean 'attention'"),
        (["ssm"], [0, 1], [100], "tiny", "--batch 0,1: give numbers of documents"),
        (["ssm"], [1], [8], "tiny", "--contexts 8: 8 tokens of each context are decoded"),
        (["ssm"], [1], [100], "huge", "--size huge: known are 1.3b"),
    ],
)
def test_what_is_no_case_is_refused(
    mixers: list[str], batches: list[int], contexts: list[int], size: str, why: str
) -> None:
    with pytest.raises(UserError, match=why):
        Setting(size, "fp32", steps=2, rounds=2).cases(mixers, batches, contexts)


def test_random_weights_spread_as_those_of_a_new_model() -> None:
    ours, new = tiny("ssm+attention"), LanguageModel(model_config("ssm+attention", "tiny"))
    for (name, found), (_, expected) in zip(ours.named_parameters(), new.named_parameters(), strict=True):
        if expected.std() and expected.dim() == 2:
            assert found.std().item() == pytest.approx(expected.std().item(), rel=0.3), name
            assert not torch.equal(found, expected)
        else:
            assert torch.equal(found, expected), name
    assert weight_bytes(ours) == sum(p.nbytes for p in ours.parameters()) - ours.embedding.weight.nbytes


@pytest.mark.parametrize("fill", ["read", "random"])
@pytest.mark.parametrize("mixer", ["attention", "lattice:2^k", "ssm"])
@pytest.mark.parametrize("batch", [1, 2])
def test_a_case_ends_at_its_context(fill: str, mixer: str, batch: int, monkeypatch: pytest.MonkeyPatch) -> None:
    decoders = []

    class Kept(session.Decoder):
        def __init__(self, *given: object, **named: object) -> None:
            super().__init__(*given, **named)  # type: ignore[arg-type]
            decoders.append(self)

    monkeypatch.setattr(session, "Decoder", Kept)
    setting = Setting("tiny", "fp32", steps=2, rounds=2, fill=fill)  # type: ignore[arg-type]
    found = measure(Case(mixer, 40, batch), tiny(mixer), setting, 1e9)
    assert decoders[0].position.tolist() == [40] * batch
    assert (len(found.round_ms), found.graph, found.prefilled) == (2, False, 32 if fill == "read" else 0)
    assert found.error is not None
    assert 0 < found.error < 1e-5


def test_steps_that_are_wrong_are_not_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny()
    right: Callable[..., torch.Tensor] = model.forward
    monkeypatch.setattr(model, "forward", lambda tokens: 1.1 * right(tokens))
    with pytest.raises(UserError, match=r"logits of steps differ from those of training by 9\.1e-02, more than 0\.001"):
        measure(Case("lattice:2^k", 40, 1), model, SETTING, 1e9)


def test_caches_beyond_the_memory_are_refused_with_their_bytes() -> None:
    context = psutil.virtual_memory().total // 500
    needed = 3 * tiny("attention").cache_bytes(context)
    with pytest.raises(RefusedError, match=rf"attention@{context}x2 needs {needed:,} bytes for its caches"):
        measure(Case("attention", context, 2), tiny("attention"), SETTING, 1e9)


def test_shares_are_of_the_median_round_and_times_beside_the_shortest_context(tmp_path: Path) -> None:
    results = Results(tmp_path / "r.json", "a machine", SETTING)
    for case in (measured("ssm@100x2", 2.0), measured("ssm@50x2", 1.6), measured("ssm@50x1", 1.0)):
        results.add(case)
    rows = results.markdown().splitlines()[2:]
    assert rows[0].startswith(
        "| ssm | 2 | 100 | 2.000 | 1.250 | 1,000 | 30.0% | 40.0% | 1.0 MiB | 1.0 GiB | 5 tokens/s |"
    )
    assert [row.split(" | ")[4] for row in rows] == ["1.250", "1.000", "1.000"]


def test_a_table_is_measured_printed_and_kept(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cases = [*SETTING.cases(["lattice:2^k"], [1, 2], [40]), Case("attention", 10**10, 1)]
    run_table(cases, SETTING, tmp_path / "r.json", seconds=200)
    (call,) = json.loads((tmp_path / "r.json").read_text())["calls"]
    assert (call["size"], call["precision"], call["fill"]) == ("tiny", "fp32", "read")
    assert [Measured.from_json(part).case for part in call["parts"]] == ["lattice:2^k@40x1", "lattice:2^k@40x2"]
    shown = capsys.readouterr().out
    assert "mixer lattice:2^k  batch 2  context 40" in shown
    assert "| lattice:2^k | 1 | 40 |" in shown
    assert "Refused: attention@10000000000x1 needs" in shown


def test_a_process_that_dies_is_followed_by_another(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A worker that ends at its second case without a word; the rest is measured by the next."""
    script = tmp_path / "worker.py"
    script.write_text(
        "import json, sys\n"
        "cases = json.loads(sys.argv[-1])['cases']\n"
        "print(json.dumps({'case': cases[0], 'refused': 'said'}), flush=True)\n"
        "sys.exit('its last words' if len(cases) > 1 else 0)\n"
    )
    (tmp_path / "python").write_text(f'#!/bin/sh\nexec {sys.executable} {script} "$@"\n')
    (tmp_path / "python").chmod(0o755)
    monkeypatch.setattr("glm_scale.bench.decode.running.sys.executable", str(tmp_path / "python"))
    cases = SETTING.cases(["ssm"], [1, 2, 3], [40])
    found = list(outcomes(cases, SETTING, 60))
    assert [outcome.case for outcome in found] == cases
    assert [outcome.refused for outcome in found] == ["said", None, "said"]
    assert found[1].error is not None
    assert "ssm@40x2 ended its process with exit code 1. Its last words:\n  its last words" in found[1].error
