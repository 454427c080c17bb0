"""Prints `constraints.txt`: the version of everything that the project and its tools need, as installed here.

    pip install --upgrade -e '.[dev,gpu,lm-eval]' && python .ci/constraints.py > constraints.txt

Walks the requirements of pyproject.toml (with the extras of `EXTRAS`) through the metadata of the installed
distributions, honouring markers and extras. Local version labels (`+cpu`) are dropped: the package index has none.
"""

from __future__ import annotations

import sys
import tomllib
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).resolve().parent.parent
EXTRAS = ("test", "dev", "gpu", "lm-eval")
"""Not `vllm`: it pins other versions of torch and transformers."""

HEADER = """\
# The whole environment, tools included, in the versions that the tests pass with. Regenerate (Linux, Python 3.11, CPU):
#   pip install --upgrade -e '.[dev,gpu,lm-eval]' && python .ci/constraints.py > constraints.txt
# torch's CUDA build asks for further packages, which it pins itself.
"""


def closure(roots: list[Requirement]) -> dict[str, Version]:
    """Versions by canonical name of all that `roots` need; `SystemExit` names what is not installed or does not fit."""
    versions: dict[str, Version] = {}
    problems: list[str] = []
    queue = [(root, "") for root in roots]
    seen: set[tuple[str, str]] = set()
    while queue:
        requirement, extra = queue.pop()
        if requirement.marker and not requirement.marker.evaluate({"extra": extra}):
            continue
        name = canonicalize_name(requirement.name)
        try:
            found = distribution(name)
        except PackageNotFoundError:
            problems.append(f"{requirement} is not installed")
            continue
        versions[name] = Version(found.version)
        if not requirement.specifier.contains(found.version, prereleases=True):
            problems.append(f"{requirement} is asked for, {found.version} is installed")
        for wanted in ("", *requirement.extras):
            if (name, wanted) not in seen:
                seen.add((name, wanted))
                queue += [(Requirement(line), wanted) for line in found.requires or ()]
    if problems:
        raise SystemExit("\n".join(sorted(set(problems))))
    return versions


def project_requirements() -> list[Requirement]:
    """The project's own requirements, extras included; a requirement on the project itself names extras only."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    lines = project["dependencies"] + [line for extra in EXTRAS for line in project["optional-dependencies"][extra]]
    return [requirement for line in lines if (requirement := Requirement(line)).name != project["name"]]


if __name__ == "__main__":
    pins = closure(project_requirements())
    sys.stdout.write(HEADER + "".join(f"{name}=={pins[name].public}\n" for name in sorted(pins)))
