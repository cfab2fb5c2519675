"""`glm-scale doctor`: how it tells what its checks find, and what it makes of a check that fails."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from glm_launch.cli.doctor import doctor
from glm_launch.doctor import CHECKS, Asked, Finding, checks, examine

Run = Callable[..., tuple[int, str]]


class TestCommand:
    @pytest.fixture
    def run(self) -> Run:
        app = typer.Typer()
        app.command()(doctor)

        def run(*arguments: str) -> tuple[int, str]:
            result = CliRunner().invoke(app, [*arguments], catch_exceptions=False)
            return result.exit_code, result.stdout

        return run

    def with_checks(self, monkeypatch: pytest.MonkeyPatch, *findings: Finding) -> None:
        monkeypatch.setattr("glm_launch.doctor.examine", lambda asked, begin=None: iter(findings))

    def test_a_problem_is_told_with_its_way_out_and_exits_with_1(
        self, run: Run, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        self.with_checks(
            monkeypatch, Finding("disk", "problem", "is full", "delete something"), Finding("x", "ok", "y")
        )
        code, output = run()
        assert code == 1
        assert output.splitlines()[0].split() == ["problem", "disk", "is", "full", "→", "delete", "something"]
        assert output.splitlines()[-1] == "1 problem, 0 warnings"

    def test_warnings_and_what_is_not_applicable_exit_with_0(self, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
        self.with_checks(monkeypatch, Finding("a", "warning", "b"), Finding("c", "not applicable", "d"))
        assert run()[0] == 0

    def test_json_is_all_that_is_printed(self, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
        self.with_checks(monkeypatch, Finding("disk", "problem", "is full", "delete something"))
        code, output = run("--json")
        assert code == 1
        assert json.loads(output) == [
            {"name": "disk", "state": "problem", "says": "is full", "way_out": "delete something"}
        ]

    def test_all_checks_run_here_and_leave_nothing_behind(self, run: Run, tmp_path: Path) -> None:
        code, output = run("--json", "--folder", str(tmp_path / "runs"), "--tracking-uri", f"sqlite:///{tmp_path}/m.db")
        found = json.loads(output)
        assert len(found) == len(CHECKS)
        assert not [finding for finding in found if "the check itself failed" in finding["says"]]
        assert code == any(finding["state"] == "problem" for finding in found)
        assert list(tmp_path.iterdir()) == []


class TestGuard:
    def test_an_exception_is_a_problem_of_the_check_and_the_others_go_on(self, asked: Asked) -> None:
        def broken_check(asked: Asked) -> Finding:
            raise ZeroDivisionError("by\nzero")

        begun: list[str] = []
        first, second = examine(asked, (broken_check, lambda asked: Finding("next", "ok", "")), begun.append)
        assert (first.name, first.state) == ("broken check", "problem")
        assert "ZeroDivisionError: by zero" in first.says
        assert second.name == "next"
        assert begun[0] == "broken check"

    def test_a_check_that_hangs_is_a_problem(self, asked: Asked, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(checks, "_PATIENCE", 0.05)
        release = threading.Event()

        def hangs(asked: Asked) -> Finding:
            release.wait()
            return Finding("hangs", "ok", "")

        [finding] = examine(asked, (hangs,))
        release.set()
        assert finding.state == "problem"
        assert "has not come to an end" in finding.says
