"""Which files a build reads, and what it says about the others: links, rights, names, and what is no file at all."""

import json
import os
import socket
import tarfile
from pathlib import Path

import pytest

from glm_data import DataError, load_index
from tests.commands import Commands, assert_refused, unprivileged
from tests.data.corpora import build_corpus, build_inputs, documents

TEXT = "a document that says: "


def written(folder: Path, *names: str) -> Path:
    """A folder of files, each with a text of its own."""
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{TEXT}{name}")
    return folder


def members(data: Path) -> list[dict]:
    """What the shards say about where their documents come from."""
    found = []
    for shard in load_index(data).splits["train"].shards:
        with tarfile.open(data / shard.name) as tar:
            found += [json.load(tar.extractfile(m)) for m in tar if m.name.endswith(".json")]  # type: ignore[arg-type]
    return found


def names(data: Path) -> list[str]:
    return [member["file"] for member in members(data)]


def test_links_are_followed_and_what_they_repeat_counts_once(tmp_path: Path) -> None:
    folder = written(tmp_path / "in", "a.txt", "deep/er/b.txt")
    elsewhere = written(tmp_path / "elsewhere", "c.txt", "more/d.txt")
    (folder / "folder").symlink_to(elsewhere)
    (folder / "deep" / "file.txt").symlink_to(written(tmp_path / "single", "e.txt") / "e.txt")
    (folder / "again.txt").symlink_to("a.txt")  # sorted in front of what it leads to by some
    (folder / "0.txt").symlink_to("a.txt")
    (folder / "0").symlink_to("deep")
    index = build_inputs(tmp_path / "set", folder)
    assert names(tmp_path / "set") == ["a.txt", "deep/er/b.txt", "deep/file.txt", "folder/c.txt", "folder/more/d.txt"]
    again = index.remarks["again"]
    assert (again.count, again.examples) == (3, ["0", "0.txt", "again.txt"])


@pytest.mark.timeout(60)
def test_links_that_circle_or_fan_out_come_to_an_end(tmp_path: Path) -> None:
    folder = written(tmp_path / "in", "a.txt", "sub/b.txt")
    (folder / "sub" / "up").symlink_to("..")
    (folder / "self").symlink_to(".")
    for number in range(30):  # 2^30 paths
        level = written(tmp_path / f"level-{number}", "x.txt")
        for name in ("left", "right"):
            (level / name).symlink_to(tmp_path / f"level-{number + 1}")
    written(tmp_path / "level-30", "x.txt")
    (folder / "fan").symlink_to(tmp_path / "level-0")
    index = build_inputs(tmp_path / "set", folder)
    assert index.input.files == 33
    assert index.remarks["again"].count == 32


def test_links_between_inputs_are_no_double_mention(tmp_path: Path) -> None:
    first, second = written(tmp_path / "first", "a.txt"), written(tmp_path / "second", "b.txt")
    (first / "second").symlink_to(second)
    index = build_inputs(tmp_path / "set", first, second)
    assert (index.input.files, index.counts.duplicates) == (2, 0)
    (tmp_path / "name").symlink_to(second)
    with pytest.raises(DataError, match="given more than once"):
        build_inputs(tmp_path / "other", second, tmp_path / "name")
    with pytest.raises(DataError, match="given more than once"):
        build_inputs(tmp_path / "other", second, second / "b.txt")


@pytest.mark.parametrize("name", ["books", "book.txt", "book.jsonl.gz", "README"])
def test_a_link_that_leads_nowhere_is_named_or_counted(tmp_path: Path, name: str) -> None:
    folder = written(tmp_path / "in", "a.txt")
    (folder / name).symlink_to("/mnt/not/mounted")
    with pytest.raises(DataError, match=rf"in/{name}: cannot be read: No such file.*link to /mnt/not/mounted.*skip"):
        build_inputs(tmp_path / "set", folder)
    index = build_inputs(tmp_path / "set", folder, on_bad_record="skip")
    assert (index.remarks["missing"].count, index.remarks["missing"].examples) == (1, [name])
    (folder / name).unlink()
    (folder / name).symlink_to(name)
    with pytest.raises(DataError, match=rf"in/{name}: cannot be read: Too many levels"):
        build_inputs(tmp_path / "other", folder)
    with pytest.raises(DataError, match="cannot be read: Too many levels"):
        build_inputs(tmp_path / "other", folder / name)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_what_may_not_be_read_is_named_or_counted(command: Commands, open_folder: Path) -> None:
    folder = written(open_folder / "in", "a.txt", "b.txt", "closed/c.txt", "listed/d.txt")
    (folder / "b.txt").chmod(0)
    (folder / "closed").chmod(0o700)
    (folder / "listed").chmod(0o744)
    user = unprivileged()
    assert_refused(folder / "closed", user)
    build_it = ("data", "build", "-i", folder, "-o", open_folder / "set", "--vocab-size", "300")
    done = command(*build_it[:5], open_folder / "skipped", *build_it[6:], "--on-bad-record", "skip", user=user)
    assert done.code == 0, done.output
    assert "may not be read, left out: 3 (b.txt, listed/d.txt, closed)" in done.stdout, done.output
    for named in ("b.txt", "listed/d.txt", "closed"):
        refused = command(*build_it, user=user)
        assert refused.code == 2, refused.output
        assert f"{named}: cannot be read: Permission denied" in refused.stderr, refused.output
        (folder / named.partition("/")[0]).chmod(0o755)


def test_what_is_passed_over_is_counted_and_shown(command: Commands, tmp_path: Path) -> None:
    folder = written(tmp_path / "in", "a.txt", ".b.txt", ".git/c.txt", "d.md", "e.TXT", "f/g.orc")
    os.mkfifo(folder / "pipe.jsonl")
    with socket.socket(socket.AF_UNIX) as listener:
        # A socket's path may have 108 bytes.
        descriptor = os.open(folder, os.O_RDONLY)
        listener.bind(f"/proc/self/fd/{descriptor}/socket.txt")
        os.close(descriptor)
    if os.geteuid() == 0:
        os.mknod(folder / "zero.txt", 0o600 | 0o020000, os.makedev(1, 5))
    done = command("data", "build", "-i", folder, "-o", tmp_path / "set", "--vocab-size", "300")
    assert done.code == 0, done.output
    for shown in (done, command("data", "show", tmp_path / "set")):
        assert "2 hidden (.b.txt, .git), 3 of other formats (d.md, e.TXT, f/g.orc)" in shown.stdout, shown.output
        special = 3 if os.geteuid() == 0 else 2
        assert f"{special} neither file nor folder (pipe.jsonl, socket.txt" in shown.stdout, shown.output


@pytest.mark.timeout(60)
@pytest.mark.parametrize("compression", ["", ".gz", ".zst"])
def test_a_pipe_is_refused_and_never_opened(tmp_path: Path, compression: str) -> None:
    os.mkfifo(pipe := tmp_path / f"x.jsonl{compression}")
    with pytest.raises(DataError, match=rf"x\.jsonl{compression}: a named pipe, not a file"):
        build_inputs(tmp_path / "set", pipe)
    with pytest.raises(DataError, match=r"holds no text.*1 neither file nor folder"):
        build_inputs(tmp_path / "set", tmp_path)


@pytest.mark.parametrize("ending", [".txt", ".jsonl"])
@pytest.mark.parametrize("compression", ["", ".gz", ".bz2", ".zst"])
def test_empty_files_are_counted_whatever_their_format(tmp_path: Path, ending: str, compression: str) -> None:
    folder = written(tmp_path / "in", "a.txt")
    (folder / f"empty{ending}{compression}").touch()
    index = build_inputs(tmp_path / "set", folder)
    assert (index.remarks["empty"].count, index.remarks["empty"].examples) == (1, [f"empty{ending}{compression}"])
    assert index.input.files == 2
    with pytest.raises(DataError, match="holds no documents"):
        build_inputs(tmp_path / "other", folder / f"empty{ending}{compression}")


ODD_NAMES = {
    b"caf\xe9.txt": "$'caf\\xe9.txt'",
    b"line\nbreak.txt": "$'line\\nbreak.txt'",
    b"\x1b[31mred.txt": "$'\\x1b[31mred.txt'",
    b"it's \\ \xff\xfe/deep.txt": "$'it\\'s \\\\ \\xff\\xfe/deep.txt'",
    "naïve 日本.txt".encode(): "naïve 日本.txt",
    rb"back\slash.txt": r"back\slash.txt",
    b"$'x'.txt": "$'$\\'x\\'.txt'",
}


@pytest.mark.parametrize("name", ODD_NAMES, ids=str)
def test_names_of_any_bytes_are_kept_shown_and_told_apart(
    command: Commands, tmp_path: Path, name: bytes, capsys: pytest.CaptureFixture[str]
) -> None:
    from glm_data.naming import original

    folder = tmp_path / "in"
    path = os.fsencode(folder) + b"/" + name
    os.makedirs(os.path.dirname(path))  # noqa: PTH103, PTH120 (a path of bytes)
    with open(path, "wb") as file:  # noqa: PTH123
        file.write(b"one\n---\ntwo")
    build_inputs(tmp_path / "set", folder, document_separator="---")
    assert names(tmp_path / "set") == [ODD_NAMES[name]] * 2
    assert os.fsencode(original(ODD_NAMES[name])) == name
    # Named in the index, on the console, and in errors.
    index = build_inputs(tmp_path / "warned", folder, document_separator="never there")
    assert index.remarks["unseparated"].examples == [ODD_NAMES[name]]
    assert load_index(tmp_path / "warned") == index
    shown = command("data", "show", tmp_path / "warned")
    assert shown.code == 0, shown.output
    assert ODD_NAMES[name] in shown.stdout
    with open(path, "ab") as file:  # noqa: PTH123
        file.write(b"\xff")
    with pytest.raises(DataError, match="not UTF-8") as caught:
        build_inputs(tmp_path / "bad", folder)
    assert str(caught.value).isprintable()


def test_folders_of_any_bytes_can_be_given(command: Commands, tmp_path: Path) -> None:
    folder = tmp_path / os.fsdecode(b"caf\xe9")
    written(folder / "in", "a.txt")
    done = command("data", "build", "-i", folder / "in", "-o", folder / "set", "--vocab-size", "300")
    assert done.code == 0, done.output
    assert r"caf\xe9/set' is ready" in done.stdout
    refused = command("data", "build", "-i", folder / "nowhere", "-o", folder / "set", "--vocab-size", "300")
    assert (refused.code, "Traceback" in refused.stderr) == (2, False), refused.output
    for option in ("--text-key", "--document-separator"):
        refused = command("data", "build", "-i", folder / "in", "-o", folder / "other", option, folder.name)
        assert refused.code == 2, refused.output
        assert "is not UTF-8" in refused.stderr, refused.output


def test_errors_tell_files_of_one_name_apart(tmp_path: Path) -> None:
    for folder in ("one", "two"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "x.jsonl").write_text('{"text": "fine"}\n' + ('{"oops"\n' if folder == "two" else ""))
    with pytest.raises(DataError, match=r"two/x\.jsonl:2: not a JSON object"):
        build_inputs(tmp_path / "set", tmp_path / "one" / "x.jsonl", tmp_path / "two" / "x.jsonl")
    with pytest.raises(DataError, match=r"two/x\.jsonl:2: not a JSON object"):
        build_inputs(tmp_path / "set", tmp_path / "one", tmp_path / "two")


def test_a_home_that_is_not_known_is_no_traceback(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"~nobody-of-this-name/x\.txt: there is no such file"):
        build_inputs(tmp_path / "set", Path("~nobody-of-this-name/x.txt"))


def test_an_index_without_remarks_is_what_it_was(tmp_path: Path) -> None:
    """Runs have recorded the fingerprints of data sets: of those that were built before, and of those built again."""
    before = build_corpus(tmp_path / "plain", documents(20))
    assert "remarks" not in json.loads((tmp_path / "plain" / "set" / "index.json").read_bytes())
    folder = tmp_path / "more"
    written(folder, "notes.md")
    (folder / "corpus.jsonl").write_bytes((tmp_path / "plain" / "corpus.jsonl").read_bytes())
    index = build_inputs(tmp_path / "set", folder, vocabulary_size=512, shard_bytes=8000, validation_fraction=None)
    assert index.remarks
    assert index.fingerprint == before.fingerprint
    assert load_index(tmp_path / "set") == index
