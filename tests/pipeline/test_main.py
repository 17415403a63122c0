"""The console command `irae`."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.__main__ import COMMANDS
from tests.support import ROOT

pytestmark = pytest.mark.integration
MAIN = [sys.executable, "-c", "from pipeline.__main__ import main; main()"]  # as the console script does


def irae(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*MAIN, *arguments], cwd=ROOT, capture_output=True, text=True)


def test_every_door_is_a_command() -> None:
    rooms = {path.parent.name for path in (ROOT / "pipeline").glob("*/__main__.py")}
    modules = {path.stem for path in (ROOT / "pipeline").glob("*.py") if '__name__ == "__main__"' in path.read_text()}
    assert set(COMMANDS) == (rooms | modules) - {"__main__"}


def test_without_a_command_it_lists_all_with_one_line_each() -> None:
    result = irae()
    assert result.returncode == 0
    assert re.findall(r"^  (\S+) +\S", result.stdout, re.MULTILINE) == list(COMMANDS)


@pytest.mark.parametrize("arguments", [("trian",), ("--nothing",)])
def test_an_unknown_command_is_refused_with_a_suggestion(arguments: tuple[str]) -> None:
    result = irae(*arguments)
    assert result.returncode == 2 and not result.stdout
    assert ("did you mean train?" if arguments == ("trian",) else "choose from") in result.stderr
    assert "Traceback" not in result.stderr


def test_version_is_that_of_the_package() -> None:
    (version,) = re.findall(r'^version = "(.+)"', (ROOT / "pyproject.toml").read_text(), re.MULTILINE)
    assert irae("--version").stdout == f"irae {version}\n"


def test_it_passes_options_and_exit_code_of_the_command(tmp_path: Path) -> None:
    result = irae("evaluate", "--run", str(tmp_path / "missing"))
    assert result.returncode == 2
    assert result.stderr.startswith("error: ") and "missing" in result.stderr


@pytest.mark.parametrize("command", [("train",), ("shard", "verify"), ("published",)])
def test_usage_names_the_program_as_it_was_typed(command: tuple[str, ...]) -> None:
    assert irae(*command, "--help").stdout.startswith(f"usage: irae {' '.join(command)} ")
    module = [sys.executable, "-m", f"pipeline.{command[0]}", *command[1:], "--help"]
    result = subprocess.run(module, cwd=ROOT, capture_output=True, text=True)
    assert result.stdout.startswith(f"usage: python -m pipeline.{' '.join(command)} ")


def complete(*words: str) -> list[str]:
    """What bash offers for the last word."""
    quoted = " ".join(f"'{word}'" for word in words)
    script = f"""
        irae() {{ {sys.executable} -c 'from pipeline.__main__ import main; main()' "$@"; }}
        eval "$(irae --print-completion)"
        COMP_WORDS=({quoted}); COMP_CWORD={len(words) - 1}; COMP_LINE="${{COMP_WORDS[*]}}"; COMP_POINT=${{#COMP_LINE}}
        _irae && printf '%s\\n' "${{COMPREPLY[@]}}"
    """
    result = subprocess.run(["bash", "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)
    return result.stdout.split()


def test_bash_completes_commands_options_and_choices() -> None:
    assert complete("irae", "re") == ["restore", "report", "reproduce"]
    assert complete("irae", "train", "--max-") == ["--max-images", "--max-minutes"]
    assert "cosine" in complete("irae", "train", "--lr-schedule", "")


@pytest.mark.parametrize("shell", ["bash", "zsh"])
def test_a_command_prints_its_own_completion(shell: str) -> None:
    result = irae("train", "--tyro-print-completion", shell)
    assert result.returncode == 0 and "--max-minutes" in result.stdout and "irae train" in result.stdout
