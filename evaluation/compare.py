"""Several runs on the same held-out problems in one table: `python -m evaluation.compare RUN_DIR [RUN_DIR ...]`.

Every learned policy found is compared, paired by problem, with the heuristic that has the best mean reward over all the runs given.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.table import Table

from cluster.errors import ExitCode, UserError
from cluster.logs import wide_console
from evaluation.arms import Arm
from evaluation.records import ExampleRecord, read_records
from evaluation.results import ArmSummary, by_arm, paired_reward_difference, summarise
from evaluation.statistics import Interval


@dataclass(frozen=True, slots=True)
class Comparison:
    """One learned policy against the best heuristic."""

    run: str
    learned: ArmSummary
    margin: Interval


def compare_runs(runs: dict[str, list[ExampleRecord]]) -> tuple[ArmSummary, list[Comparison]]:
    """The best heuristic of all runs, and each run's learned policy against it."""
    heuristics: dict[Arm, list[ExampleRecord]] = {}
    learned: dict[str, tuple[Arm, list[ExampleRecord]]] = {}
    for run, records in runs.items():
        for arm, members in by_arm(records).items():
            if arm.is_learned:
                learned[run] = (arm, members)
            else:
                heuristics.setdefault(arm, members)
    if not heuristics or not learned:
        missing = "heuristic" if not heuristics else "learned policy"
        raise UserError(f"no records of a {missing} in {', '.join(runs)}; allowed: directories of finished runs")
    best = max(
        (summarise(arm, members) for arm, members in heuristics.items()), key=lambda summary: summary.reward.mean
    )
    theirs = heuristics[best.arm]
    comparisons = []
    for run, (arm, ours) in learned.items():
        if not {record.example_id for record in ours} & {record.example_id for record in theirs}:
            raise UserError(f"run {run!r} shares no problem with the best heuristic's; allowed: runs on one task")
        comparisons.append(Comparison(run, summarise(arm, ours), paired_reward_difference(ours, theirs)))
    return best, comparisons


def comparison_table(best: ArmSummary, comparisons: Sequence[Comparison]) -> Table:
    """One line per learned policy, below the heuristic they are compared with."""
    table = Table(
        title=f"{best.num_examples} held-out problems; margins are paired by problem, 95% intervals",
        title_justify="left",
    )
    for name in ("policy", "block", "accuracy", "NFE", "reward", "margin in reward"):
        table.add_column(name, justify="left" if name == "policy" else "right")

    def cells(name: str, summary: ArmSummary) -> list[str]:
        figures = [f"{summary.accuracy.mean:.1%}", f"{summary.nfe.mean:.2f}", f"{summary.reward.mean:.4f}"]
        return [name, str(summary.arm.block_length), *figures]

    table.add_row(*cells(f"best heuristic: {best.arm.label}", best), "")
    table.add_section()
    for line in comparisons:
        margin = f"{line.margin.mean:+.4f} [{line.margin.low:+.4f}, {line.margin.high:+.4f}]"
        table.add_row(*cells(line.run, line.learned), margin)
    return table


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit code."""
    parser = argparse.ArgumentParser(prog="python -m evaluation.compare", description=__doc__)
    parser.add_argument("run_dirs", nargs="+", metavar="RUN_DIR")
    options = parser.parse_args(arguments)
    try:
        runs = {}
        for run in options.run_dirs:
            path = Path(run) / "evaluation" / "records.jsonl"
            if not path.is_file():
                raise UserError(f"'{run}' has no evaluation/records.jsonl; allowed: directories of finished runs")
            runs[run] = read_records(path)
        wide_console().print(comparison_table(*compare_runs(runs)))
    except UserError as error:
        sys.stderr.write(f"error: {error}\n")
        return ExitCode.USER_ERROR
    return ExitCode.FINISHED


if __name__ == "__main__":
    sys.exit(main())
