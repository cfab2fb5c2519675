"""A run goes on wherever it and its data lie now, and with any version that would train it alike."""

import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml

from glm_data import PackedSequences
from glm_launch.checks import check_run
from glm_launch.records import LaunchFolder
from glm_scale.config import RunConfig, resolved_yaml
from glm_scale.config import other_versions as earlier
from glm_scale.errors import UserError
from glm_scale.run import preflight as opening
from glm_scale.run.fresh_start import start_anew
from glm_scale.run.recorded import recorded_config
from glm_scale.run_directory import COMMITTED, RunDirectory
from tests.commands import Commands
from tests.scaling.synthetic_runs import write_run
from tests.tiny_run import tiny_config, tiny_data, write_config


@pytest.fixture(scope="module")
def trained(fork_server, tmp_path_factory):
    """The folder of a finished run of six steps."""
    folder = tmp_path_factory.mktemp("trained")
    config = write_config(folder / "tiny.yaml", tiny_config(tiny_data(tmp_path_factory), folder))
    done = Commands(fork_server, tmp_path_factory.mktemp("commands"))("train", config)
    assert done.code == 0, done.output
    return folder


class Place:
    """A run directory, and what the run is configured to be."""

    def __init__(self, data: Path, folder: Path) -> None:
        self.tree = tiny_config(data, folder)
        self.file = write_config(folder / "tiny.yaml", self.tree)
        self.run = RunDirectory(folder / "runs/tiny")

    def write(self) -> None:
        """The papers of a run that has finished, without its tensors."""
        config = RunConfig.model_validate(self.tree)
        write_run(self.run.path.parent, self.run.name, "ssm", steps=20)
        self.run.config.write_text(resolved_yaml(config))
        read = PackedSequences(config.data)
        self.run.update_summary(data_fingerprint=read.fingerprint, tokenizer_fingerprint=read.tokenizer_fingerprint)
        self.run.write_version()
        for step in (4, 6):
            self.run.checkpoint(step).mkdir()
            (self.run.checkpoint(step) / COMMITTED).touch()
            shutil.copy(self.run.config, self.run.checkpoint(step))

    def goes_on(self, **groups: object) -> list[str]:
        """Remarks about the run that goes on with these groups of values replaced."""
        tree = {**self.tree, **{key: v if isinstance(v, str) else {**self.tree[key], **v} for key, v in groups.items()}}  # type: ignore[dict-item]
        config = RunConfig.model_validate(tree)
        remarks = opening.check_goes_on(RunDirectory(config.run_root / config.name), config, 768)
        return [remark for remark in remarks if "run_root" not in remark]

    def records(self, **groups: object) -> None:
        """Replace values of what the run says that it was configured to be; None takes a key away."""
        tree = yaml.safe_load(self.run.config.read_text())
        for group, values in groups.items():
            for key, value in dict(values).items():  # type: ignore[call-overload]
                tree.setdefault(group, {})[key] = value
                if value is None:
                    del tree[group][key]
        self.run.config.write_text(yaml.safe_dump(tree))


@pytest.fixture
def place(tmp_path, tmp_path_factory):
    """A run that looks as if it had finished."""
    made = Place(tiny_data(tmp_path_factory), tmp_path)
    made.write()
    return made


@pytest.fixture
def whole(trained, tmp_path, tmp_path_factory):
    """A copy of a run that has finished."""
    shutil.copytree(trained / "runs", tmp_path / "runs")
    return Place(tiny_data(tmp_path_factory), tmp_path)


def test_a_renamed_run_goes_on_with_its_data_elsewhere(whole, command, tmp_path):
    shutil.copytree(whole.tree["data"]["sources"][0]["path"], tmp_path / "moved")
    whole.run.path.rename(whole.run.path.with_name("better"))
    changes = ("name=better", f"data.sources=[{{path: {tmp_path}/moved}}]", "training.tokens=1024")
    done = command("train", whole.file, *changes)
    assert done.code == 0, done.output
    assert "name: 'tiny' → 'better'; its directory was renamed" in done.stdout
    assert "moved'; the data are the same" in done.stdout
    assert "going on from step 6" in done.stdout
    summary = RunDirectory(tmp_path / "runs/better").read_summary()
    assert (summary.name, summary.step, summary.status) == ("better", 8, "finished")
    assert not whole.run.path.exists()


def test_what_lies_elsewhere_has_to_be_the_same_data(place, tmp_path):
    (tmp_path / "linked").symlink_to(place.tree["data"]["sources"][0]["path"])
    elsewhere = {"sources": [{"path": str(tmp_path / "linked")}]}
    assert place.goes_on(data=elsewhere)
    place.run.update_summary(data_fingerprint="0" * 64)
    with pytest.raises(UserError, match="other data"):
        place.goes_on(data=elsewhere)
    place.run.update_summary(data_fingerprint=None)
    with pytest.raises(UserError, match="cannot be told from others"):
        place.goes_on(data=elsewhere)
    assert place.goes_on() == []


@pytest.mark.parametrize(
    ("sources", "key"),
    [
        ([{"path": "{data}", "weight": 2.0}], r"data\.sources\[0\]\.weight: 1\.0 → 2\.0"),
        ([{"path": "{data}"}, {"path": "{data}"}], r"data\.sources\[1\]\.path: None"),
    ],
)
def test_weights_and_number_of_sources_are_part_of_the_run(place, sources, key):
    path = place.tree["data"]["sources"][0]["path"]
    changed = [{**source, "path": source["path"].format(data=path)} for source in sources]
    with pytest.raises(UserError, match=key):
        place.goes_on(data={"sources": changed})


def test_what_a_version_has_added_since_is_no_change(place):
    place.records(model={"norm_eps": None}, training={"optimizer": None, "spikes": None}, data={"on_bad_sample": None})
    place.records(training={"optimizer": {"learning_rate": 0.01}})
    assert place.goes_on() == []
    with pytest.raises(UserError, match=r"model\.norm_eps: 1e-05 → 0\.001"):
        place.goes_on(model={"norm_eps": 0.001})


@pytest.mark.parametrize(("recorded", "policy"), [(True, "full"), (False, "none")])
def test_activation_checkpointing_that_was_all_or_nothing_is_no_change(place, recorded, policy):
    place.records(training={"activation_checkpointing": recorded})
    assert place.goes_on(training={"activation_checkpointing": policy}) == []
    assert place.goes_on(training={"activation_checkpointing": recorded}) == []
    (remark,) = place.goes_on(training={"activation_checkpointing": "selective"})
    assert f"training.activation_checkpointing: '{policy}' → 'selective'; losses may differ" in remark


def test_what_a_version_has_lost_is_named_and_matters_if_it_changed_numbers(place, monkeypatch):
    place.records(tracking={"colour": "red"}, checkpoint={"keep": 0})
    remarks = "\n".join(place.goes_on())
    assert "tracking.colour = 'red'" in remarks
    assert "checkpoint.keep = 0" in remarks
    place.records(model={"gating": "on"}, data={"seed": -1})
    with pytest.raises(UserError, match=r"(?s)config\.yaml was written by .*model\.gating = 'on'") as caught:
        place.goes_on()
    assert "data.seed = -1" in str(caught.value)
    place.records(data={"seed": 0})
    monkeypatch.setattr(earlier, "GONE", {"model.gating": "on"})
    assert "model.gating = 'on'" in "\n".join(place.goes_on())


def test_a_model_of_another_version_is_read_as_its_run_goes_on(whole, command):
    exported = whole.run.path / "exported"
    assert command("checkpoint", "export", whole.run.path, "--output", exported).code == 0
    tree = yaml.safe_load((exported / "config.yaml").read_text())
    tree["tracking"]["colour"] = "red"
    (exported / "config.yaml").write_text(yaml.safe_dump(tree))
    generated = command("generate", exported, "--tokens", 2)
    assert (generated.code, "tracking.colour = 'red'" in generated.stderr) == (0, True), generated.output
    tree["model"]["gating"] = "on"
    (exported / "config.yaml").write_text(yaml.safe_dump(tree))
    refused = command("generate", exported, "--tokens", 2)
    assert refused.code == 2, refused.output
    assert "model.gating = 'on'\nUse that version." in refused.stderr


@pytest.mark.parametrize("damage", ["missing", "empty", "no YAML", "a list", "binary", "a folder"])
def test_a_lost_configuration_is_taken_from_the_newest_checkpoint(place, damage):
    before = recorded_config(place.run).values
    place.run.config.unlink()
    contents = {"empty": b"", "no YAML": b"{a: [", "a list": b"- 1\n", "binary": b"\xff\x00\xfe"}
    if damage == "a folder":
        place.run.config.mkdir()
    elif damage in contents:
        place.run.config.write_bytes(contents[damage])
    found = recorded_config(place.run)
    assert found.values == before
    assert "config.yaml" in found.remarks[0]
    assert "step-00000006/config.yaml is taken instead" in found.remarks[0]
    with pytest.raises(UserError, match=r"training\.seed: 0 → 7"):
        place.goes_on(training={"seed": 7})
    check_run(RunConfig.model_validate(place.tree), 1, data_comes_later=False)
    shutil.rmtree(place.run.checkpoints)
    with pytest.raises(UserError, match=r"config\.yaml.*no checkpoint.*--fresh"):
        place.goes_on()


def test_a_run_that_lost_its_summary_is_still_held_to_its_configuration(whole, command):
    whole.run.summary.unlink()
    refused = command("train", whole.file, "training.seed=3")
    assert refused.code == 2, refused.output
    assert "training.seed: 0 → 3" in refused.stderr


def test_records_of_a_newer_version_are_called_that(place):
    place.run.summary.write_text(place.run.summary.read_text().replace('"name"', '"colour": "red", "name"'))
    place.run.version.write_text('{"glm_scale": "99.1"}')
    with pytest.raises(UserError, match=r"summary\.json was written by a newer glm-scale \(version 99\.1\).*colour"):
        place.run.read_summary()
    folder = LaunchFolder(place.run)
    folder.path.mkdir()
    folder.submission_file.write_text(
        '{"kind": "local", "job": "1", "host": "h", "folder": ".", "working_directory": ".", "submitted": 0, "mood": 1}'
    )
    with pytest.raises(UserError, match=r"submission\.json was written by a newer glm-scale.*mood"):
        folder.submission()


# Anew -----------------------------------------------------------------------------------------------------------------


def test_a_fresh_run_moves_the_earlier_one_aside_and_either_goes_on(whole, command):
    before = whole.run.metrics.read_bytes()
    anew = command("train", whole.file, "--fresh", "training.seed=5", "training.tokens=128")
    assert anew.code == 0, anew.output
    assert f"is now in {whole.run.path}.1" in anew.stdout.replace("\n", "")
    aside = RunDirectory(f"{whole.run.path}.1")
    assert (aside.read_summary().name, aside.metrics.read_bytes()) == ("tiny.1", before)
    assert whole.run.read_summary().step == 1
    again = command("train", whole.file, "name=tiny.1")
    assert (again.code, "finished already" in again.stdout) == (0, True), again.output


def test_a_fresh_run_that_is_stopped_says_how_it_goes_on(whole, command):
    stopped = command("train", whole.file, "--fresh", "training.time_limit_minutes=0.0001")
    assert stopped.code == 85, stopped.output
    assert "next: the same command without --fresh" in stopped.stdout
    assert command("train", whole.file).code == 0
    assert not Path(f"{whole.run.path}.2").exists()


def test_a_run_in_which_somebody_trains_is_not_moved(place):
    with place.run.lock(), pytest.raises(UserError, match=r"process \d+ on .* is training in"):
        place.run.set_aside()
    assert place.run.exists()


def test_who_waits_for_a_run_that_is_moved_meanwhile_leaves_the_next_one_alone(place, monkeypatch):
    """Two start anew at once: the slower one has the lock of what is no longer there."""
    lock, theirs = RunDirectory.lock, []

    def overtaken(run: RunDirectory) -> Any:
        monkeypatch.setattr(RunDirectory, "lock", lock)
        held = run.lock()
        shutil.copytree(run.path.rename(run.path.with_name("moved")), run.path)
        theirs.append(run.lock())
        return held

    monkeypatch.setattr(RunDirectory, "lock", overtaken)
    with pytest.raises(UserError, match="is training in"):
        place.run.set_aside()
    theirs[0].release()
    assert sorted(path.name for path in place.run.path.parent.iterdir()) == ["moved", "tiny"]


@pytest.mark.parametrize("variable", ["SLURM_RESTART_COUNT", "TORCHELASTIC_RESTART_COUNT"])
def test_what_a_scheduler_starts_again_is_not_begun_anew(place, monkeypatch, variable):
    monkeypatch.setenv(variable, "1")
    start_anew(place.run, RunConfig.model_validate(place.tree))
    assert place.run.exists()
    monkeypatch.setenv(variable, "0")
    start_anew(place.run, RunConfig.model_validate(place.tree))
    assert not place.run.exists()


def test_a_place_beside_the_run_that_is_taken_is_passed_over(place):
    for name in ("tiny.1", "tiny.2"):
        place.run.path.with_name(name).write_text("mine")
    assert place.run.set_aside() == place.run.path.with_name("tiny.3")
    assert place.run.set_aside() is None
    assert place.run.path.with_name("tiny.1").read_text() == "mine"
