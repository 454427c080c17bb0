"""What there is to decode with: `python -m evaluation.samplers [--markdown]` lists every sampler with its parameters and source."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence

from rich.table import Table

from cluster.errors import ExitCode
from cluster.logs import wide_console
from policy.factory import HEURISTICS, HeuristicKind

COLUMNS = ("sampler", "commits", "parameters (default)", "source")


def sampler_rows() -> Iterator[tuple[str, str, str, str]]:
    """One line per sampler; the first parameter is the swept one."""
    for name, kind in HEURISTICS.items():
        yield name, kind.description, ", ".join(_parameters(kind)), kind.source


def _parameters(kind: HeuristicKind) -> Iterator[str]:
    for each in kind.parameters:
        default = repr(each.default) if isinstance(each.default, str) else f"{each.default:g}"
        yield f"{each.name} ({default})"


def markdown() -> str:
    """The table of docs/samplers.md."""
    lines = [COLUMNS, ("---",) * len(COLUMNS), *sampler_rows()]
    return "".join("| " + " | ".join(line) + " |\n" for line in lines)


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit code."""
    parser = argparse.ArgumentParser(prog="python -m evaluation.samplers", description=__doc__)
    parser.add_argument("--markdown", action="store_true", help="the table of docs/samplers.md")
    if parser.parse_args(arguments).markdown:
        sys.stdout.write(markdown())
        return ExitCode.FINISHED
    table = Table(*COLUMNS)
    for line in sampler_rows():
        table.add_row(*line)
    wide_console().print(table)
    return ExitCode.FINISHED


if __name__ == "__main__":
    sys.exit(main())
