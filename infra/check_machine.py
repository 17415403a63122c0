"""Check before the installation: Python's version and free disk space. Runs on any Python, without packages."""

import shutil
import sys

NEEDED_GB = 5.0


def problem(version, free_gb):
    """A sentence for the user, or None. `version` as (major, minor)."""
    if not (3, 10) <= version < (3, 14):
        return (
            "Python {}.{} is not supported, 3.10 to 3.13 are; "
            "choose one with `make PYTHON=python3.12 ...` (after `make clean`).".format(*version)
        )
    if free_gb < NEEDED_GB:
        return f"only {free_gb:.1f} GB are free here, and the installation needs {NEEDED_GB:.0f}; free some space."
    return None


if __name__ == "__main__":
    found = problem(sys.version_info[:2], shutil.disk_usage(".").free / 1e9)
    if found:
        sys.stderr.write("error: " + found + "\n")
        sys.exit(2)
