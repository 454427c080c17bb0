"""Prints the dependencies of a pyproject.toml, with those of the named extras: an image layer that the code does not change.

    python requirements.py pyproject.toml [EXTRA ...]

Needs nothing but the standard library.
"""

from __future__ import annotations

import sys
import tomllib
from pathlib import Path


def requirements(pyproject: Path, extras: list[str]) -> list[str]:
    """One requirement a line, in the order of the file; raises SystemExit for an extra that it lacks."""
    project = tomllib.loads(pyproject.read_text(encoding="utf-8"))["project"]
    known = project.get("optional-dependencies", {})
    for extra in extras:
        if extra not in known:
            raise SystemExit(f"error: unknown extra {extra!r}; allowed: {', '.join(known)}")
    return [*project["dependencies"], *(line for extra in extras for line in known[extra])]


if __name__ == "__main__":
    sys.stdout.write("\n".join(requirements(Path(sys.argv[1]), sys.argv[2:])) + "\n")
