"""The layout of the repository: which package may import which, and how large files, functions and folders may be.

Imports are read from the syntax tree, at module level and inside functions. A package imports only from packages before
it in its list, so that there are no import cycles between packages; cycles inside a package are looked for as well.
"""

import ast
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

from modeling_rogle.release.model_files import code_files

ROOT = Path(__file__).parents[1]
FOLDERS = ("modeling_rogle", "dataset_pvlg", "train", "eval", "hub", "benchmarks")
# In each list a package may import the packages before it. "" is the root of modeling_rogle.
ORDER = {
    "modeling_rogle": (
        "", "metrics", "inference", "conversion", "onnx_export", "matching", "evaluation", "index", "release",
        "reliability", "indexing", "search", "display", "cli",
    ),
    "dataset_pvlg": (
        "features", "boxes", "jobs", "text_cleaning", "proposals", "synthetic_v1", "synthetic", "builder", "arrow_io",
        "readers", "curation", "loading", "row_groups", "generation", "inspection", "captioning", "mining", "build",
    ),
    "benchmarks": ("common", "speed", "quality", "robustness", "studies"),
}  # fmt: skip
# modeling_rogle/__init__.py offers names of later packages, lazily; dataset_pvlg/__init__.py registers the builder.
INITIALS = ("modeling_rogle/__init__.py", "dataset_pvlg/__init__.py")
FILES_IN_A_FOLDER, LINES_OF_A_FILE, LINES_OF_A_TEST_FILE, LINES_OF_A_FUNCTION = 20, 450, 600, 120


def python_files(*folders: str) -> Iterator[Path]:
    for folder in folders:
        for path in sorted((ROOT / folder).rglob("*.py")):
            if not path.is_symlink():
                yield path.relative_to(ROOT)


def imports(path: Path) -> Iterator[str]:
    """The modules of this repository that a file imports, in full."""
    package = path.parent.parts
    for node in ast.walk(ast.parse((ROOT / path).read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            start = package[: len(package) - node.level + 1] if node.level else ()
            module = ".".join([*start, *filter(None, [node.module])])
            submodules = [f"{module}.{alias.name}" for alias in node.names]
            names = [name if is_module(name) else module for name in submodules]
        else:
            continue
        yield from (name for name in names if name.partition(".")[0] in FOLDERS)


def is_module(name: str) -> bool:
    path = ROOT.joinpath(*name.split("."))
    return path.is_dir() or path.with_suffix(".py").is_file()


def package_of(module: str) -> str:
    """The entry of `ORDER` that a module belongs to."""
    top, *rest = module.split(".")
    if not rest:
        return ""
    if top == "modeling_rogle" and not (ROOT / top / rest[0]).is_dir():
        return ""
    return rest[0]


def module_name(path: Path) -> str:
    return ".".join(path.with_suffix("").parts).removesuffix(".__init__")


def fault(path: Path, module: str) -> str | None:
    """Why a file may not import a module, or None."""
    top, target = path.parts[0], module.partition(".")[0]
    if target != top:
        # A sub-command of `rogle` may import a later folder inside the function that runs it.
        if path.parts[:2] == ("modeling_rogle", "cli") or FOLDERS.index(target) < FOLDERS.index(top):
            return None
        return f"{path} imports {module}: {target} comes after {top}"
    if top not in ORDER:
        return None
    order, here, there = ORDER[top], package_of(module_name(path)), package_of(module)
    if here == there:
        return None
    if here not in order or there not in order:
        return f"{path} imports {module}: ORDER lacks {here if here not in order else there!r}"
    return None if order.index(there) < order.index(here) else f"{path} imports {module}, which comes later"


def test_imports_run_one_way() -> None:
    paths = (path for path in python_files(*FOLDERS) if path.as_posix() not in INITIALS)
    faults = [found for path in paths for module in imports(path) if (found := fault(path, module))]
    assert not faults, "\n".join(faults)


def test_sub_commands_import_the_data_package_when_they_run() -> None:
    for path in python_files("modeling_rogle"):
        tree = ast.parse((ROOT / path).read_text(encoding="utf-8"))
        for node in tree.body:
            module = node.module or "" if isinstance(node, ast.ImportFrom) and not node.level else ""
            assert module.partition(".")[0] not in FOLDERS[1:], f"{path}: line {node.lineno}"


def test_no_import_cycle() -> None:
    graph = {module_name(path): set(imports(path)) for path in python_files(*FOLDERS) if path.name != "__init__.py"}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(" -> ".join(error.args[1]))


def test_the_root_of_the_package_is_the_code_of_a_release() -> None:
    root = {path.name for path in (ROOT / "modeling_rogle").iterdir() if path.is_file()}
    assert root == {*code_files(), "__init__.py", "py.typed"}


def test_files_functions_and_folders_are_small() -> None:
    too_large: list[str] = []
    folders: dict[Path, int] = {}
    for path in python_files(*FOLDERS, "tests"):
        text = (ROOT / path).read_text(encoding="utf-8")
        lines, most = len(text.splitlines()), LINES_OF_A_TEST_FILE if path.parts[0] == "tests" else LINES_OF_A_FILE
        if lines > most:
            too_large.append(f"{path} has {lines} lines, at most {most}")
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                length = node.end_lineno - node.lineno + 1
                if length > LINES_OF_A_FUNCTION:
                    too_large.append(f"{path}: {node.name} has {length} lines, at most {LINES_OF_A_FUNCTION}")
        folders[path.parent] = folders.get(path.parent, 0) + 1
    too_large += [f"{path} holds {n} Python files" for path, n in folders.items() if n > FILES_IN_A_FOLDER]
    assert not too_large, "\n".join(too_large)


def test_no_test_module_imports_another() -> None:
    for path in python_files("tests"):
        text = (ROOT / path).read_text(encoding="utf-8")
        for node in ast.walk(ast.parse(text)):
            module = node.module or "" if isinstance(node, ast.ImportFrom) else ""
            assert not module.rpartition(".")[2].startswith("test_"), f"{path}: line {node.lineno}"
