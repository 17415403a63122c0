"""Dependency versions compared with constraints.txt: `python -m infra.versions` lists differences, exit code 1 then."""

from __future__ import annotations

import platform
import sys
from importlib import metadata
from pathlib import Path

CONSTRAINTS = Path(__file__).parent.parent / "constraints.txt"
COMPARED = ("torch", "numpy", "ray", "boto3", "s3fs", "pyarrow", "pillow", "safetensors")
"""Packages that decide about results, and about whether machines understand each other."""


def installed_versions() -> dict[str, str]:
    """Versions of Python and the compared packages; "missing" for one that is not installed."""
    found = {"python": platform.python_version()}
    for name in COMPARED:
        try:
            found[name] = metadata.version(name).split("+")[0]  # without a build tag, as in 2.13.0+cu130
        except metadata.PackageNotFoundError:
            found[name] = "missing"
    return found


def differing(constraints: Path = CONSTRAINTS) -> list[str]:
    """A sentence for each compared package with another version than in constraints.txt, for this Python."""
    from packaging.requirements import Requirement

    lines = (line.split("#")[0].strip() for line in constraints.read_text().splitlines())
    requirements = [Requirement(line) for line in lines if line]
    wanted = {r.name: next(iter(r.specifier)).version for r in requirements if not r.marker or r.marker.evaluate()}
    installed = installed_versions()
    return [
        f"{name} is {installed[name]}, constraints.txt says {wanted[name]}: pip install {name}=={wanted[name]} "
        "-c constraints.txt"
        for name in COMPARED
        if installed[name] != wanted.get(name, installed[name])
    ]


if __name__ == "__main__":
    problems = differing()
    print("\n".join(problems) or "all packages have the versions of constraints.txt")
    sys.exit(1 if problems else 0)
