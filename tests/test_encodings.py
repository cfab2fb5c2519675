"""Text in files is UTF-8 whatever the locale says: what one machine writes another reads."""

import ast
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
SOURCES = [
    path
    for package in ("glm_scale", "kernels/glm_kernels", "data_pipeline/glm_data", "launch/glm_launch")
    for path in sorted((ROOT / package).rglob("*.py"))
]


def texts_of_the_locale(tree: ast.AST) -> Iterator[int]:
    """Lines of calls that read or write text in whatever encoding the locale has."""
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call) or any(word.arg == "encoding" for word in node.keywords):
            continue
        named = node.func.attr if isinstance(node.func, ast.Attribute) else ""
        if named in ("read_text", "write_text", "FileHandler") or _opens_text(node):
            yield node.lineno


def _opens_text(call: ast.Call) -> bool:
    function, modes = call.func, call.args
    if isinstance(function, ast.Name) and function.id == "open":
        modes = call.args[1:]
    elif not (isinstance(function, ast.Attribute) and function.attr in ("open", "fdopen")):
        return False
    elif isinstance(function.value, ast.Name) and function.value.id == "os":
        if function.attr == "open":
            return False  # a descriptor
        modes = call.args[1:]
    named = [word.value for word in call.keywords if word.arg == "mode"]
    mode = next((m.value for m in [*named, *modes[:1]] if isinstance(m, ast.Constant)), "r")
    return isinstance(mode, str) and "b" not in mode


def test_text_is_read_and_written_as_utf_8():
    assert len(SOURCES) > 200
    found = {str(path): list(texts_of_the_locale(ast.parse(path.read_text(encoding="utf-8")))) for path in SOURCES}
    assert {path: lines for path, lines in found.items() if lines} == {}


def test_the_search_finds_what_depends_on_the_locale():
    found = 'p.read_text()\np.write_text("")\np.open()\nopen(p, "a")\nos.fdopen(1, "w")\nlogging.FileHandler(p)\n'
    assert list(texts_of_the_locale(ast.parse(found))) == [1, 2, 3, 4, 5, 6]
    well = 'p.read_text(encoding="utf-8")\np.open("rb")\nopen(p, mode="wb")\nos.open(p, os.O_RDONLY)\np.read_bytes()\n'
    assert list(texts_of_the_locale(ast.parse(well))) == []
