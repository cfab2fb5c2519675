"""Which module may import which: imports of the package point down a list of layers, and no two modules import each
other."""

import ast
from pathlib import Path

import glm_kernels

PACKAGE = Path(glm_kernels.__file__).parent
LAYERS = [
    {"bench"},
    {"operators", "fla"},
    {"library", "sharding"},
    {"dispatch"},
    {"torch_backend", "triton_backend"},
    {"kernel_interface", "reference", "checks", "attention"},
    {"state"},
    {"documents", "patterns", "precision"},
    {"device_cache"},
]
"""From the top: what a layer imports, at any place of a module, is of its own module or package, or further down."""
FAMILIES = [{"families"}, {"segmented", "chained", "all_rows", "ssm", "decode"}, {"common"}]
"""The same of `triton_backend`."""


def imports() -> dict[str, set[str]]:
    """Of every module the modules of the package that it imports, by names without `glm_kernels`."""
    modules = {}
    for path in PACKAGE.rglob("*.py"):
        name = ".".join(path.relative_to(PACKAGE).with_suffix("").parts).removesuffix("__init__").rstrip(".")
        modules[name] = ast.parse(path.read_text())
    found = {}
    for name, tree in modules.items():
        targets = set()
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] == "glm_kernels":
                module = node.module.partition(".")[2]
                inner = {f"{module}.{alias.name}".lstrip(".") for alias in node.names}
                targets |= {x if x in modules else module for x in inner}
        found[name] = targets - {name, ""}
    return found


def test_imports_point_down():
    def layer(layers: list[set[str]], name: str, depth: int) -> int:
        part = name.split(".")[depth]
        return next(i for i, names in enumerate(layers) if part in names)

    for name, targets in imports().items():
        for target in targets if name else ():
            if name.split(".")[0] != target.split(".")[0]:
                assert layer(LAYERS, name, 0) < layer(LAYERS, target, 0), f"{name} imports {target}"
            elif name.startswith("triton_backend.") and name.split(".")[1] != target.split(".")[1]:
                assert layer(FAMILIES, name, 1) < layer(FAMILIES, target, 1), f"{name} imports {target}"


def test_no_modules_import_each_other():
    remaining = imports()
    while remaining:
        free = [name for name, targets in remaining.items() if not targets & remaining.keys()]
        assert free, f"a circle among {sorted(remaining)}"
        for name in free:
            del remaining[name]
