"""What the pages name exists: files, links, commands, options, variables, messages, versions."""

from __future__ import annotations

import ast
import re
import runpy
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from pipeline.__main__ import COMMANDS
from tests.support import ROOT

TRACKED = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()
PAGES = [name for name in TRACKED if name.endswith(".md") and name not in ("CHANGELOG.md", "docs/log.md")]
PRODUCT = [n for n in TRACKED if n.split("/")[0] in ("irae", "sharding", "infra", "pipeline")]
HELP = {path.stem: path.read_text() for path in (ROOT / "docs/help").glob("*.txt")}


def text_of(name: str) -> str:
    return (ROOT / name).read_text()


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_to_files(page: str) -> None:
    links = re.findall(r"\]\(([^)#:]+)(?:#[\w-]*)?\)", text_of(page))
    assert not [link for link in links if not (ROOT / page).parent.joinpath(link).exists()]


def test_pages_that_the_code_names_exist() -> None:
    named = {
        (name, page)
        for name in TRACKED
        if name.endswith((".py", ".yaml", ".sh", ".md", ".html")) and name not in ("CHANGELOG.md", "docs/log.md")
        for page in re.findall(r"\bdocs/[\w./-]+\.md\b", text_of(name))
    }
    assert not [(name, page) for name, page in named if not (ROOT / page).exists()]


def command_lines(text: str) -> Iterator[tuple[str, list[str]]]:
    """(name of the help text, options) of each command that a page shows."""
    pattern = r"(?:\birae|python -m (?:pipeline\.)?) ?((?:infra\.)?[a-z_0-9]+) ?([^`\n|;#]*)"
    for command, rest in re.findall(pattern, text.replace("\\\n", " ")):
        words = rest.split()
        names = [f"{command}-{words[0]}"] if words else []
        name = next((n for n in [*names, command] if n in HELP), None)
        if name:
            yield name, re.findall(r"(?<!\S)(--[A-Za-z][\w-]*)", rest)


@pytest.mark.parametrize("page", [page for page in PAGES if "/add-a-" not in page])  # those are executed
def test_commands_in_pages_have_their_options(page: str) -> None:
    wrong = [
        (name, option)
        for name, options in command_lines(text_of(page))
        for option in options
        if not re.search(rf"(?<![\w-]){option}(?![\w-])", HELP[name] + " --tyro-print-completion")
    ]
    assert not wrong


def test_an_option_that_does_not_exist_is_found() -> None:
    """The check above can fail."""
    assert list(command_lines("`irae shard verify --nothing URL`")) == [("shard-verify", ["--nothing"])]
    assert list(command_lines("$ python -m pipeline.train --lr 1e-3  # --K")) == [("train", ["--lr"])]


def test_readme_is_short_and_names_every_command_that_a_user_needs() -> None:
    readme = text_of("README.md")
    assert len(readme.splitlines()) <= 120
    commands = set(COMMANDS) - {"demo", "published", "guard"}
    assert not [command for command in commands if f"irae {command}" not in readme]
    assert (ROOT / "docs/report.jpg").stat().st_size < 300_000


def test_every_environment_variable_is_in_the_table() -> None:
    code = "\n".join(text_of(name) for name in PRODUCT if name.endswith((".py", ".sh", ".yaml")))
    read = set(re.findall(r"\bIRAE_[A-Z0-9_]+\b", code))
    read |= set(re.findall(r"""os\.environ(?:\.get\(|\[|\.setdefault\()["']([A-Z][A-Z0-9_]+)["']""", code))
    ours = {name for name in read if name.startswith(("TUNE_", "RAY_AIR_"))} | {"PATH", "PYTHONPATH"}
    table = text_of("docs/reference/environment.md")
    documented = set(re.findall(r"`([A-Z][A-Z0-9_]+)`", table))
    assert not read - documented - ours  # ours: set for Ray by the commands themselves
    assert not {name for name in documented if name.startswith("IRAE_")} - read


def sentences(name: str) -> str:
    """All texts of a Python file, with … for what is filled in."""
    found = []
    for node in ast.walk(ast.parse(text_of(name))):
        if isinstance(node, ast.JoinedStr):
            found.append("".join(str(v.value) if isinstance(v, ast.Constant) else "…" for v in node.values))
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            found.append(node.value)
    return "\n".join(found)


def test_messages_of_the_troubleshooting_page_are_ours() -> None:
    messages = re.findall(r"^### (.+)$", text_of("docs/reference/troubleshooting.md"), re.MULTILINE)
    everything = "\n".join(sentences(name) for name in PRODUCT if name.endswith(".py"))
    assert len(messages) > 15
    assert not [m for m in messages for part in m.split("...") if part.strip() not in everything]


def test_glossary_is_in_order() -> None:
    terms = re.findall(r"^\| ([^|]+?) \| [^|]+ \|$", text_of("docs/glossary.md"), re.MULTILINE)[1:]
    assert len(terms) > 40 and terms == sorted(terms, key=str.casefold)


def test_citation_has_the_version_of_the_package() -> None:
    (version,) = re.findall(r'^version = "(.+)"', text_of("pyproject.toml"), re.MULTILINE)
    citation = yaml.safe_load(text_of("CITATION.cff"))
    assert citation["version"] == version and "2009.03173" in str(citation["references"])


def test_the_workflow_runs_ci_on_every_python_of_the_package() -> None:
    (lowest, above) = re.findall(r'requires-python = ">=3\.(\d+),<3\.(\d+)"', text_of("pyproject.toml"))[0]
    job = yaml.safe_load(text_of(".github/workflows/ci.yml"))["jobs"]["ci"]
    assert job["strategy"]["matrix"]["python"] == [f"3.{minor}" for minor in range(int(lowest), int(above))]
    assert job["steps"][-1] == {"run": "bash .ci/run"}


def test_private_words_are_found() -> None:
    findings = runpy.run_path(str(ROOT / "docs/check_words.py"))["findings"]
    text = '"""What is told."""\nx = in_place  # a file system\nthe run goes on\nthe run goes on  # words: ok\n'
    found = list(findings("a.py", text))
    assert [line.split(": ")[0] for line in found] == ["a.py:1", "a.py:1", "a.py:3"]
    assert Path(ROOT / "docs/words.txt").exists() and "resume" in found[-1]
