"""The rooms and the imports between them. `python -m tests.test_structure` prints them."""

from __future__ import annotations

import ast
import subprocess
import sys

import pytest

from tests.support import ROOT
from tests.support.imports import (
    PACKAGES,
    Import,
    Source,
    ancestors,
    circles,
    longest_prefix,
    module_name,
    private_names,
)

OPTIONS = ("irae.config", "irae.registry", "irae.errors", "infra.storage.errors")
"""Modules of plain data, which load no library."""
LIBRARIES_OF_OURS = ("irae", "sharding", "infra", "infra.storage", "pipeline.config", "pipeline.cli")
SHARED = (*LIBRARIES_OF_OURS, "pipeline.runs", "pipeline.data")
MAY_IMPORT: dict[str, tuple[str, ...]] = {
    "irae": (),
    "infra.storage": (),
    "infra": ("infra.storage",),
    "sharding": ("infra.storage",),
    "pipeline": (),
    "pipeline.config": OPTIONS,
    "pipeline.cli": ("pipeline.config", *OPTIONS),
    "pipeline.runs": LIBRARIES_OF_OURS,
    "pipeline.data": LIBRARIES_OF_OURS,
    "pipeline.shard": SHARED,
    "pipeline.train": SHARED,
    "pipeline.evaluate": SHARED,
    "pipeline.restore": SHARED,
    "pipeline.report": SHARED,
    "pipeline.doctor": SHARED,
    "pipeline.guard": SHARED,
    "pipeline.published": SHARED,
    "pipeline.tune": (*SHARED, "pipeline.train"),
    "pipeline.reproduce": (*SHARED, "pipeline.train", "pipeline.evaluate"),
    "pipeline.demo": SHARED,
    "pipeline.__main__": ("pipeline.cli",),
}
"""Room -> rooms and modules that it may import beside itself. A module belongs to the room with the longest name."""

LIBRARIES: dict[str, tuple[str, ...]] = {
    "torch": ("irae", "pipeline"),
    "safetensors": ("irae",),
    "numpy": ("irae", "sharding", "infra/storage", "pipeline"),
    "pyarrow": ("sharding", "infra/storage", "pipeline"),
    "pyarrow.fs": ("infra",),
    "PIL": ("sharding", "pipeline"),
    "scipy": ("sharding/sources", "pipeline/published.py"),
    "h5py": ("pipeline/published.py",),
    "boto3": ("infra",),
    "botocore": ("infra",),
    "s3transfer": ("infra/storage",),
    "urllib3": ("infra/storage",),
    "s3fs": ("infra",),
    "fsspec": ("infra",),
    "filelock": ("infra", "sharding"),
    "ray": ("pipeline", "infra/cluster.py"),
    "optuna": ("pipeline/tune",),
    "optuna_dashboard": ("pipeline/tune",),
    "plotly": ("pipeline/tune",),
    "matplotlib": ("pipeline/report", "pipeline/reproduce", "pipeline/runs/svg.py"),
    "tensorboard": ("pipeline/train",),
    "tyro": ("pipeline",),
    "rich": ("pipeline",),
    "jinja2": ("pipeline/report",),
    "markupsafe": ("pipeline/report",),
    "skimage": ("pipeline/demo.py",),
    "yaml": ("infra", "pipeline/doctor"),
    "packaging": ("infra/versions.py",),
    "?": ("pipeline/__main__.py",),
}
"""Library -> folders and files that may import it. `irae` has three, so that it can be used on its own. "?": imports by
a computed name; the console command starts the others by theirs."""

_RAY_UTIL = "ray.autoscaler._private.util"
PRIVATE_NAMES: dict[tuple[str, str], str] = {
    ("infra/storage/s3_download.py", "_raw_stream"): "received_chunks",
    ("pipeline/doctor/cluster_file.py", f"{_RAY_UTIL}.prepare_config"): "ray_validation_error",
    ("pipeline/doctor/cluster_file.py", f"{_RAY_UTIL}.validate_config"): "ray_validation_error",
}
"""(file, private name of a library) -> the only function that may use it."""

DOORS = ("__main__.py", "pipeline/demo.py", "pipeline/published.py")
"""Ends of the paths of the modules that a user starts; they load what they need after the command line is parsed."""
MAX_MODULES_AT_ROOT, MAX_ARROWS, MAX_LAZY_IMPORTS = 4, 45, 15


def room_of(module: str) -> str:
    """The room of a module; "" for one that MAY_IMPORT does not name."""
    room = longest_prefix(module, set(MAY_IMPORT)) or ""
    return "" if room == "pipeline" != module else room


def arrows(source: Source) -> dict[tuple[str, str], list[Import]]:
    """(importing room, imported room) -> its imports."""
    result: dict[tuple[str, str], list[Import]] = {}
    for found in source.own_imports():
        ends = room_of(module_name(found.path)), room_of(found.module)
        if ends[0] != ends[1]:
            result.setdefault(ends, []).append(found)
    return result


def pipeline_arrows(source: Source) -> list[tuple[str, str]]:
    return sorted(ends for ends in arrows(source) if all(room.startswith("pipeline.") for room in ends))


def backward(source: Source) -> list[Import]:
    """Imports against the direction of MAY_IMPORT."""
    return [
        found
        for (importer, imported), imports in arrows(source).items()
        for found in imports
        if imported not in MAY_IMPORT.get(importer, ())
        and not {found.module, *ancestors(found.module)} & set(MAY_IMPORT.get(importer, ())) & set(OPTIONS)
    ]


def modules_at_root(source: Source) -> list[str]:
    return [p for p in source.files if p.startswith("pipeline/") and p.count("/") == 1 and p != "pipeline/__init__.py"]


def lazy_imports(source: Source) -> list[Import]:
    """Imports of our own modules inside functions, outside the doors."""
    return [found for found in source.own_imports() if found.lazy and not found.path.endswith(DOORS)]


def misplaced_libraries(source: Source) -> list[str]:
    """Imports of libraries where LIBRARIES does not allow them, of unlisted ones, and of modules by a computed name."""
    wrong = []
    for found in source.imports():
        if found.module.split(".")[0] in {*PACKAGES, *sys.stdlib_module_names}:
            continue
        library = longest_prefix(found.module, set(LIBRARIES))
        folders = LIBRARIES[library] if library else ()
        if not any(found.path == folder or found.path.startswith(folder + "/") for folder in folders):
            wrong.append(str(found))
    return wrong


def private_uses(source: Source) -> list[tuple[str, str, str]]:
    """(file, private name, documented function around it or "") for each use of one that the file does not define."""
    return [(path, name, function) for path, text in source.files.items() for name, function in private_names(text)]


def describe(source: Source) -> str:
    """The rooms with their lines, the arrows between them, and what must not be there."""
    rooms: dict[str, list[str]] = {}
    for path in source.files:
        rooms.setdefault(room_of(module_name(path)), []).append(path)
    lines = [f"{len(rooms)} rooms:"]
    for room, paths in sorted(rooms.items()):
        lines.append(f"  {room}: {len(paths)} modules, {sum(len(source.files[p].splitlines()) for p in paths)} lines")
    between, root = pipeline_arrows(source), modules_at_root(source)
    lines.append(f"{len(root)} modules at pipeline's root (at most {MAX_MODULES_AT_ROOT}): {', '.join(root)}")
    lines.append(f"{len(between)} arrows between rooms of pipeline (at most {MAX_ARROWS}):")
    for room in sorted({importer for importer, _ in between}):
        lines.append(f"  {room} -> {', '.join(b.removeprefix('pipeline.') for a, b in between if a == room)}")
    for title, items in (
        ("imports against the direction (at most 0)", backward(source)),
        ("import circles (at most 0)", [" <-> ".join(group) for group in circles(source.graph())]),
        (f"function-level imports outside the doors (at most {MAX_LAZY_IMPORTS})", lazy_imports(source)),
    ):
        lines += [f"{len(items)} {title}", *(f"  {item}" for item in items)]
    return "\n".join(lines)


@pytest.fixture(scope="module")
def source() -> Source:
    return Source.of_project()


def test_description(source: Source) -> None:
    """Printed with `pytest -s`."""
    print("\n" + describe(source))
    assert "" not in {room_of(name) for name in source.modules}, "a module without a room: MAY_IMPORT lacks it"


def test_direction(source: Source) -> None:
    assert not (found := backward(source)), "\n".join(map(str, found))


def test_circles(source: Source) -> None:
    assert not (found := circles(source.graph())), "\n".join(" <-> ".join(group) for group in found)


def test_size_of_the_pipeline(source: Source) -> None:
    assert len(modules_at_root(source)) <= MAX_MODULES_AT_ROOT
    assert len(pipeline_arrows(source)) <= MAX_ARROWS
    assert len(lazy_imports(source)) <= MAX_LAZY_IMPORTS


def test_libraries_are_where_they_belong(source: Source) -> None:
    assert not (found := misplaced_libraries(source)), "\n".join(found)


def test_irae_stands_alone() -> None:
    allowed = {library for library, folders in LIBRARIES.items() if "irae" in folders}
    assert allowed == {"torch", "numpy", "safetensors"}


def test_private_names(source: Source) -> None:
    """Each in one documented function; and PRIVATE_NAMES holds none that is no longer used."""
    used, allowed = set(private_uses(source)), {(*key, function) for key, function in PRIVATE_NAMES.items()}
    assert used == allowed, "\n".join(map(str, used ^ allowed))


ADDED = {
    "irae/flow.py": "import sharding",
    "infra/storage/local.py": "def f():\n    from infra.cluster import Node",
    "sharding/order.py": "from infra import cluster",
    "pipeline/config/checks.py": "from infra.storage import open_storage",
    "pipeline/runs/folder.py": "from pipeline.data import pairs",
    "pipeline/train/step.py": "import importlib\nimportlib.import_module('pipeline.evaluate.measure')",
    "pipeline/tune/space.py": "from ..evaluate.config import EvaluateConfig",
    "pipeline/report/page.py": "if TYPE_CHECKING:\n    import pipeline.demo",
    "pipeline/guard/watch.py": "import runpy\nrunpy.run_module('pipeline.doctor')",
    "pipeline/shard/make.py": "def f():\n    __import__('pipeline.train.loop')",
}


@pytest.mark.parametrize("path", ADDED)
def test_a_wrong_direction_is_found(path: str, source: Source) -> None:
    more = with_lines(source, path, ADDED[path])
    assert [found.path for found in backward(more) if found not in backward(source)] == [path]


def with_lines(source: Source, path: str, lines: str) -> Source:
    return Source({**source.files, path: f"{source.files[path]}\n{lines}\n"})


def test_a_circle_is_found(source: Source) -> None:
    ring = with_lines(source, "irae/config.py", "def f():\n    import irae.model")
    assert any({"irae/config.py", "irae/model.py"} <= set(group) for group in circles(ring.graph()))
    package = with_lines(source, "infra/storage/base.py", "from infra.storage import open_storage")
    ends = {"infra/storage/base.py", "infra/storage/__init__.py"}
    assert any(ends <= set(group) for group in circles(package.graph()))


def test_a_lazy_import_is_found(source: Source) -> None:
    more = with_lines(source, "irae/model.py", "def f():\n    from irae import ema, noise\n    import torch")
    new = [found.module for found in lazy_imports(more) if found not in lazy_imports(source)]
    assert new == ["irae.ema", "irae.noise"]


@pytest.mark.parametrize(
    ("path", "lines"),
    [
        ("irae/model.py", "import scipy"),
        ("sharding/order.py", "import importlib\ntorch = importlib.import_module('torch')"),
        ("sharding/order.py", "import sys\ntorch = sys.modules.get('torch')"),
        ("sharding/order.py", "def f(name):\n    return __import__(name)"),
        ("pipeline/train/loop.py", "import boto3"),
        ("infra/versions.py", "def f():\n    import ray.data"),
        ("infra/cluster.py", "import tyro"),
        ("pipeline/train/loop.py", "from matplotlib import pyplot"),
        ("pipeline/runs/folder.py", "from pyarrow import fs"),
        ("pipeline/cli.py", "import a_new_library"),
    ],
)
def test_a_misplaced_library_is_found(path: str, lines: str, source: Source) -> None:
    found = misplaced_libraries(with_lines(source, path, lines))
    assert len(found) == len(misplaced_libraries(source)) + 1


@pytest.mark.parametrize(
    ("lines", "name"),
    [
        ("import ray._raylet", "ray._raylet"),
        ("from ray import _private", "ray._private"),
        ("def f(trial):\n    return trial._study", "_study"),
        ("class A(B):\n    def f(self):\n        return self._brackets", "_brackets"),
        ("def f(x):\n    return getattr(x, '_meta')", "_meta"),
        ("class A:\n    def f(self):\n        self._own = os._exit; self._own(B(0)._replace(c=1)._stub)", "_stub"),
    ],
)
def test_a_private_name_is_found(lines: str, name: str) -> None:
    assert [found for found, _ in private_names(lines)] == [name]


TESTS = {path.relative_to(ROOT).as_posix(): path.read_text() for path in sorted((ROOT / "tests").rglob("*.py"))}
CLOCKS = {"time", "monotonic", "perf_counter", "process_time"}


def imported_tests(text: str) -> list[str]:
    """Test modules that a file imports."""
    nodes = [node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.ImportFrom | ast.Import)]
    names = [f"{getattr(node, 'module', '')}.{alias.name}" for node in nodes for alias in node.names]
    return [name for name in names if any(part.startswith("test_") for part in name.split("."))]


def asserted_durations(text: str) -> list[str]:
    """Asserts on a difference of times. A deadline that keeps a test from hanging is none."""
    asserts = [node.test for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Assert)]
    differences = [n for a in asserts for n in ast.walk(a) if isinstance(n, ast.BinOp) and isinstance(n.op, ast.Sub)]
    calls = [(d, n.func) for d in differences for n in ast.walk(d) if isinstance(n, ast.Call)]
    return [ast.unparse(d) for d, f in calls if {getattr(f, "attr", ""), getattr(f, "id", "")} & CLOCKS]


@pytest.mark.parametrize("path", TESTS)
def test_tests_import_no_tests_and_assert_no_durations(path: str) -> None:
    """What several test modules use is in tests/support."""
    assert not imported_tests(TESTS[path])
    assert not asserted_durations(TESTS[path])


def test_an_imported_test_and_an_asserted_duration_are_found() -> None:
    assert imported_tests("from tests.irae.test_model import make\nimport tests.support.ports") == [
        "tests.irae.test_model.make"
    ]
    assert imported_tests("from tests.irae import test_model, bijections") == ["tests.irae.test_model"]
    assert asserted_durations("assert time.monotonic() - begin < 2") == ["time.monotonic() - begin"]
    assert asserted_durations("assert 2 > perf_counter() - begin") == ["perf_counter() - begin"]
    assert not asserted_durations("assert time.monotonic() < deadline_s")


EXTRAS = (
    "ray", "boto3", "botocore", "s3transfer", "s3fs", "optuna", "optuna_dashboard", "plotly", "tensorboard",
    "skimage", "h5py", "pytest",
)  # fmt: skip
"""Libraries that are not among the base dependencies."""
NEEDS_AN_EXTRA = (
    "infra.aws", "infra.storage.s3", "infra.storage.probe", "pipeline.tune", "pipeline.train.ray",
    "pipeline.doctor.cluster", "pipeline.guard",
)  # fmt: skip
"""Beginnings of the names of the modules that cannot be imported without those."""
IMPORT_EACH = """
import importlib, sys
class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {extras!r}:
            raise ImportError(name + " is no base dependency")
sys.meta_path.insert(0, Blocker())
for name in {modules!r}:
    try:
        importlib.import_module(name)
    except ImportError as error:
        print(name + ": " + str(error))
"""


@pytest.mark.integration
def test_modules_import_with_the_base_dependencies(source: Source) -> None:
    modules = [name for name in source.modules if not name.startswith(NEEDS_AN_EXTRA)]
    code = IMPORT_EACH.format(extras=EXTRAS, modules=modules)
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert result.stdout == ""


HEAVY = ("torch", "ray", "pyarrow", "boto3", "numpy", "PIL", "matplotlib", "optuna", "jinja2")
COMMANDS = (
    "shard", "shard verify", "shard inspect", "train", "tune", "tune best", "tune dashboard", "evaluate", "restore",
    "report", "reproduce", "published", "doctor", "guard", "demo",
)  # fmt: skip


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.integration
def test_help_is_instant(command: str) -> None:
    """It loads no heavy library."""
    name, *words = command.split()
    code = (
        "import runpy, sys, atexit\n"
        f"atexit.register(lambda: print('LOADED', [m for m in {HEAVY!r} if m in sys.modules]))\n"
        f"sys.argv = ['x', *{words!r}, '--help']; runpy.run_module('pipeline.{name}', None, '__main__', True)"
    )
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert "usage: " in result.stdout
    assert "LOADED []" in result.stdout


if __name__ == "__main__":
    print(describe(Source.of_project()))
