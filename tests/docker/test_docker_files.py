"""The files of docker/ hold together. No engine is asked: what they say is read, and compared with the repository."""

from __future__ import annotations

import fnmatch
import os
import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]
DOCKERFILES = (ROOT / "docker/Dockerfile", ROOT / "docker/mlflow.Dockerfile")
EXACT_TAG = re.compile(r"[a-z0-9./-]+:\d+\.\d+(\.\d+)?-[a-z0-9.-]+")


def instructions(path: Path) -> list[tuple[str, str]]:
    """Of a Dockerfile: name and arguments of each, without comments and line breaks."""
    lines = [line for line in path.read_text().splitlines() if line.strip() and not line.lstrip().startswith("#")]
    joined = re.sub(r"\\\n\s*", "", "\n".join(lines))
    return [(name, rest) for name, _, rest in (line.partition(" ") for line in joined.splitlines())]


def arguments(path: Path, wanted: str) -> list[str]:
    return [rest for name, rest in instructions(path) if name == wanted]


def is_sent(path: str) -> bool:
    """Whether .dockerignore lets a path of the repository reach the builder: the last line that matches decides."""
    sent = True
    parents = [path, *(str(parent) for parent in Path(path).parents if str(parent) != ".")]
    for line in (ROOT / ".dockerignore").read_text().splitlines():
        pattern = line.strip()
        if not pattern or pattern.startswith("#"):
            continue
        keeps, pattern = pattern.startswith("!"), pattern.removeprefix("!")
        names = [Path(place).name for place in parents] if pattern.startswith("**/") else parents
        if any(fnmatch.fnmatchcase(name, pattern.removeprefix("**/")) for name in names):
            sent = keeps
    return sent


def pin(package: str) -> str:
    found = re.search(rf"^{package}==(\S+)$", (ROOT / "constraints.txt").read_text(), re.M)
    assert found, f"constraints.txt does not pin {package}"
    return found[1]


def compose() -> dict:
    return yaml.safe_load((ROOT / "docker/compose.yaml").read_text())


@pytest.mark.parametrize("path", DOCKERFILES, ids=lambda path: path.name)
class TestDockerfiles:
    def test_the_base_is_an_exact_release(self, path: Path) -> None:
        [base] = arguments(path, "FROM")
        assert EXACT_TAG.fullmatch(base)

    def test_it_does_not_run_as_root(self, path: Path) -> None:
        [user] = arguments(path, "USER")
        assert int(user) > 0
        after = [name for name, _ in instructions(path)]
        assert "RUN" not in after[after.index("USER") :]
        assert f"useradd --create-home --uid {user}" in " ".join(arguments(path, "RUN"))

    def test_what_it_copies_is_in_the_repository_and_reaches_the_builder(self, path: Path) -> None:
        sources = [source for rest in arguments(path, "COPY") for source in shlex.split(rest)[:-1]]
        assert sources
        for source in sources:
            assert (ROOT / source).exists(), source
            assert is_sent(source), f"{source} is left out by .dockerignore"

    def test_its_entry_point_is_a_list(self, path: Path) -> None:
        [entry] = arguments(path, "ENTRYPOINT")
        assert yaml.safe_load(entry) == (["glm-scale"] if path.name == "Dockerfile" else ["mlflow", "server"])


def test_the_training_image_is_installed_by_the_script_of_the_readme() -> None:
    runs = arguments(DOCKERFILES[0], "RUN")
    assert sum("docker/install.sh" in run for run in runs) == 1
    assert not any("pip install" in run for run in runs)
    assert "docker/install.sh" in (ROOT / "Makefile").read_text()


def test_everything_that_the_package_is_built_from_is_copied() -> None:
    copied = {source for rest in arguments(DOCKERFILES[0], "COPY") for source in shlex.split(rest)[:-1]}
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    needed = {"pyproject.toml", "constraints.txt", project["project"]["readme"], *project["project"]["license-files"]}
    needed |= set(project["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"])
    missing = {name for name in needed if not any(name == c or name.startswith(f"{c}/") for c in copied)}
    assert not missing


@pytest.mark.parametrize("path", ["docker/.env", "runs", "data", "mlflow.db", ".git", ".venv", "glm_scale/__pycache__"])
def test_secrets_data_and_leftovers_do_not_reach_the_builder(path: str) -> None:
    assert not is_sent(path)


def test_the_tracking_server_has_the_version_that_clients_have() -> None:
    [run] = arguments(DOCKERFILES[1], "RUN")
    assert f" mlflow=={pin('mlflow')} " in run
    assert re.search(r" psycopg2-binary==\d+\.\d+\.\d+ ", run)


class TestCompose:
    def test_a_missing_password_is_an_error_and_none_is_written_down(self) -> None:
        services = compose()["services"]
        secrets = [
            value
            for service in services.values()
            for name, value in service.get("environment", {}).items()
            if "PASS" in name
        ]
        assert len(secrets) == 2
        assert all(re.fullmatch(r"\$\{POSTGRES_PASSWORD:\?.+docker/\.env.*\}", secret) for secret in secrets)
        assert "@" not in (ROOT / "docker/compose.yaml").read_text().replace("mlflow@postgres", "")

    def test_every_variable_is_explained_in_the_example(self) -> None:
        text = (ROOT / "docker/compose.yaml").read_text()
        used = set(re.findall(r"\$\{(\w+)", text))
        example = set(re.findall(r"^#?(\w+)=", (ROOT / "docker/example.env").read_text(), re.M))
        assert used == example

    def test_the_file_of_secrets_is_ignored_by_git(self) -> None:
        ignored = subprocess.run(["git", "check-ignore", "-q", "docker/.env"], cwd=ROOT, check=False).returncode
        assert ignored == 0
        assert "POSTGRES_PASSWORD=\n" in (ROOT / "docker/example.env").read_text()

    def test_images_are_exact_and_files_are_there(self) -> None:
        services = compose()["services"]
        assert EXACT_TAG.fullmatch(services["postgres"]["image"])
        build = services["mlflow"]["build"]
        context = (ROOT / "docker" / build["context"]).resolve()
        assert context == ROOT
        assert (context / build["dockerfile"]).is_file()

    def test_the_server_waits_for_the_database_and_both_are_watched(self) -> None:
        services = compose()["services"]
        assert services["mlflow"]["depends_on"]["postgres"]["condition"] == "service_healthy"
        assert all(service["healthcheck"]["test"][0] == "CMD" for service in services.values())
        compile(services["mlflow"]["healthcheck"]["test"][-1], "healthcheck", "exec")

    def test_metrics_and_artifacts_lie_in_named_volumes(self) -> None:
        document = compose()
        mounted = [volume for service in document["services"].values() for volume in service["volumes"]]
        assert {volume.partition(":")[0] for volume in mounted} == set(document["volumes"])
        command = document["services"]["mlflow"]["command"]
        [artifacts] = [word.partition("=")[2] for word in command if word.startswith("--artifacts-destination=")]
        assert f"artifacts:{artifacts}" in mounted

    def test_only_this_machine_reaches_the_server_by_default(self) -> None:
        services = compose()["services"]
        assert "ports" not in services["postgres"]
        assert services["mlflow"]["ports"][0].startswith("${MLFLOW_ADDRESS:-127.0.0.1}:")

    def test_the_database_is_reached_by_the_driver_of_the_image(self) -> None:
        command = compose()["services"]["mlflow"]["command"]
        [store] = [word.partition("=")[2] for word in command if word.startswith("--backend-store-uri=")]
        [run] = arguments(DOCKERFILES[1], "RUN")
        driver = store.partition("://")[0].partition("+")[2]
        assert f" {driver}-binary==" in run
        assert store.endswith("@postgres/mlflow")

    def test_mlflow_knows_the_options(self) -> None:
        from mlflow.cli import server

        known = {option for parameter in server.params for option in parameter.opts}
        for word in compose()["services"]["mlflow"]["command"]:
            assert word.partition("=")[0] in known


class TestCaches:
    """The module that the image gives to every Python."""

    def started(self, folder: Path, **environment: str) -> dict[str, str]:
        code = (
            "import sys, os, json; sys.path.insert(0, sys.argv[1]); import caches; print(json.dumps(dict(os.environ)))"
        )
        clean = {
            name: value for name, value in os.environ.items() if not name.endswith(("_CACHE_DIR", "_EXTENSIONS_DIR"))
        }
        clean.pop("MPLCONFIGDIR", None)
        done = subprocess.run(
            [sys.executable, "-S", "-c", code, ROOT / "docker"],
            env=clean | {"TMPDIR": str(folder)} | environment,
            check=True,
            capture_output=True,
            text=True,
        )
        return yaml.safe_load(done.stdout)

    def test_they_lie_in_a_folder_of_the_user(self, tmp_path: Path) -> None:
        own = tmp_path / f"glm-scale-{os.getuid()}"
        found = self.started(tmp_path, HOME="/nonexistent")
        assert found["TRITON_CACHE_DIR"] == f"{own}/triton"
        assert own.stat().st_mode & 0o777 == 0o700
        assert self.started(tmp_path)["TORCH_EXTENSIONS_DIR"] == f"{own}/torch_extensions"

    def test_what_is_set_stays(self, tmp_path: Path) -> None:
        assert self.started(tmp_path, TRITON_CACHE_DIR="/mine")["TRITON_CACHE_DIR"] == "/mine"

    def test_a_folder_that_others_can_fill_is_not_used(self, tmp_path: Path) -> None:
        own = tmp_path / f"glm-scale-{os.getuid()}"
        own.mkdir()
        own.chmod(0o777)
        assert not self.started(tmp_path)["TRITON_CACHE_DIR"].startswith(f"{own}/")

    def test_a_link_is_not_followed(self, tmp_path: Path) -> None:
        own = tmp_path / f"glm-scale-{os.getuid()}"
        (tmp_path / "elsewhere").mkdir(mode=0o700)
        own.symlink_to(tmp_path / "elsewhere")
        assert not self.started(tmp_path)["TRITON_CACHE_DIR"].startswith(f"{own}/")
