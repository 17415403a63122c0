"""The rooms and the ways between them, and the map of them in the README."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support import ROOT

ROOMS = ("irae", "sharding", "infra", "pipeline")
ONLY_IN = {
    "ray": ("pipeline", "infra/cluster.py"),
    "boto3": ("infra",),
    "botocore": ("infra",),
    "s3fs": ("infra",),
    "pyarrow.fs": ("infra",),
    "torch": ("irae", "pipeline"),
    "tyro": ("pipeline",),
}
"""Library -> the places where it may be imported."""
IRAE_MAY_USE = {"torch", "numpy", "safetensors", "irae", *sys.stdlib_module_names}


def python_files(room: str) -> list[Path]:
    return sorted((ROOT / room).rglob("*.py"))


def imports_of(path: Path) -> set[str]:
    """Every imported module of a file, also of imports inside functions."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            assert node.module
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return found


def top(module: str) -> str:
    return module.split(".")[0]


@pytest.mark.parametrize("room", ROOMS)
def test_rooms_import_in_one_direction(room: str) -> None:
    allowed = set(ROOMS) if room == "pipeline" else {room}
    # The model's configuration is plain data; all else of pipeline's neighbours stays apart.
    wrong = [
        (path.name, module)
        for path in python_files(room)
        for module in imports_of(path)
        if top(module) in ROOMS and top(module) not in allowed
    ]
    assert not wrong


def may_import(path: Path, places: tuple[str, ...]) -> bool:
    relative = path.relative_to(ROOT).as_posix()
    return any(relative == place or relative.startswith(place + "/") for place in places)


def test_libraries_stay_where_they_belong() -> None:
    wrong = [
        (path.relative_to(ROOT).as_posix(), module)
        for room in ROOMS
        for path in python_files(room)
        for module in imports_of(path)
        for library, places in ONLY_IN.items()
        if (module == library or module.startswith(library + ".")) and not may_import(path, places)
    ]
    assert not wrong


def test_irae_needs_torch_numpy_and_safetensors_only() -> None:
    wrong = {module for path in python_files("irae") for module in imports_of(path) if top(module) not in IRAE_MAY_USE}
    assert not wrong


BLOCKED = ("ray", "boto3", "botocore", "s3fs", "optuna", "tensorboard", "scipy")
IMPORT_WITHOUT = f"""
import sys
class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {BLOCKED!r}:
            raise ImportError(name + " is not to be needed here")
sys.meta_path.insert(0, Blocker())
import irae.model, irae.checkpoint, sharding, sharding.pack, sharding.sources, pipeline.training.loop
"""


def test_model_sharding_and_loop_import_without_the_extras() -> None:
    subprocess.run([sys.executable, "-c", IMPORT_WITHOUT], check=True, cwd=ROOT)


COMMANDS = ("shard", "train", "tune", "evaluate", "restore", "report", "reproduce", "published", "doctor", "guard")


@pytest.mark.parametrize("command", COMMANDS)
def test_help_is_instant(command: str) -> None:
    """No heavy library is loaded for it."""
    code = (
        "import runpy, sys, atexit\n"
        "heavy = ('torch', 'ray', 'pyarrow', 'boto3', 'numpy', 'PIL')\n"
        "atexit.register(lambda: print('LOADED', [m for m in heavy if m in sys.modules]))\n"
        f"sys.argv = ['x', '--help']; runpy.run_module('pipeline.{command}', run_name='__main__')"
    )
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert "usage: " in result.stdout
    assert "LOADED []" in result.stdout


def test_every_path_of_the_readme_exists() -> None:
    readme = (ROOT / "README.md").read_text()
    tree = re.search(r"```text\n(.*?)```", readme, re.DOTALL)
    assert tree, "the map is a ```text block"
    paths = tree_paths(tree[1]) + re.findall(r"\]\(([\w./-]+)\)", readme)
    assert len(paths) > 20
    assert not [path for path in paths if not (ROOT / path).exists()]


def tree_paths(tree: str) -> list[str]:
    """Paths of an indented tree: each line holds one or more names, then two spaces and words."""
    paths, folders = [], [""]
    for line in tree.splitlines():
        if not line.strip():
            continue
        depth = (len(line) - len(line.lstrip())) // 2
        names = re.split(r"\s{2,}", line.strip())[0].split()
        paths += ["".join(folders[: depth + 1]) + name for name in names]
        folders[depth + 1 :] = [names[-1]] if names[-1].endswith("/") else []
    return paths


def test_every_folder_and_command_is_on_the_map() -> None:
    readme = (ROOT / "README.md").read_text()
    missing = [f"{room}/" for room in (*ROOMS, "tests", "docs") if f"{room}/" not in readme]
    commands = ("shard", "train", "tune", "evaluate", "report", "restore")
    missing += [c for c in commands if f"python -m pipeline.{c}" not in readme]
    assert not missing


def test_every_file_of_the_rooms_is_on_the_map() -> None:
    readme = (ROOT / "README.md").read_text()
    rooms = (*ROOMS, "pipeline/search", "pipeline/report_page", "pipeline/reproduction")
    rooms_with_files = [path for room in rooms for path in (ROOT / room).glob("*.py")]
    assert not [p.name for p in rooms_with_files if p.name != "__init__.py" and p.name not in readme]
