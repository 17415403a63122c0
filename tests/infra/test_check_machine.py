"""The check before the installation, as `make` runs it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from infra import check_machine
from tests.support import ROOT

SUPPORTED = [(3, minor) for minor in range(10, 14)]


def test_the_supported_versions_are_those_of_the_project() -> None:
    assert 'requires-python = ">=3.10,<3.14"' in (ROOT / "pyproject.toml").read_text()


@given(st.tuples(st.integers(2, 4), st.integers(0, 20)), st.floats(0, 100))
def test_a_problem_is_one_sentence_with_value_and_remedy(version: tuple[int, int], free_gb: float) -> None:
    problem = check_machine.problem(version, free_gb)
    if version not in SUPPORTED:
        assert problem.startswith(f"Python {version[0]}.{version[1]} is not supported") and "make PYTHON=" in problem
    elif free_gb < check_machine.NEEDED_GB:
        assert problem.startswith(f"only {free_gb:.1f} GB are free") and "free some space" in problem
    else:
        assert problem is None
    assert problem is None or "\n" not in problem


@pytest.mark.integration
def test_as_a_program_it_needs_no_package_and_no_folder_of_ours(tmp_path: Path) -> None:
    program = [sys.executable, "-I", "-S", ROOT / "infra/check_machine.py"]
    result = subprocess.run(program, cwd=tmp_path, capture_output=True, text=True)
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")


@pytest.mark.integration
def test_a_full_disk_ends_the_installation(tmp_path: Path) -> None:
    code = (
        "import runpy, shutil; from types import SimpleNamespace\n"
        "shutil.disk_usage = lambda path: SimpleNamespace(free=1.26e9)\n"
        f"runpy.run_path({str(ROOT / 'infra/check_machine.py')!r}, run_name='__main__')"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.returncode == 2 and result.stderr.startswith("error: only 1.3 GB are free here")


def test_make_checks_before_it_installs() -> None:
    recipe = (ROOT / "Makefile").read_text().split("$(INSTALLED):")[1]
    assert recipe.index("infra/check_machine.py") < recipe.index("pip install")
