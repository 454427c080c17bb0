"""The end of a run: one clear table, the paired comparison, where the time went, and the files that hold all of it."""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.table import Table

from cluster.logs import wide_console
from cluster.run_dir import RunDir
from evaluation.environment import environment_record
from evaluation.plots import plot_learning, plot_pareto
from evaluation.results import (
    LEARNED,
    Arm,
    ArmSummary,
    ExampleRecord,
    Interval,
    by_arm,
    paired_reward_difference,
    summarise,
)


def write_results(
    run_dir: RunDir,
    records: Sequence[ExampleRecord],
    arms: Sequence[Arm],
    *,
    alpha: float,
    canvas_length: int,
    history: Sequence[dict[str, Any]],
    policy_name: str,
) -> None:
    """Writes results.json, summary.csv and the plots, and prints the table."""
    groups = by_arm(records, arms)
    graded = {arm for arm in arms if any(record.grade != "grader_error" for record in groups[arm])}
    summaries = [summarise(arm, groups[arm]) for arm in arms if arm in graded]
    console = wide_console()
    for arm in arms:
        if groups[arm] and arm not in graded:
            console.print(
                f"{arm.label}, block {arm.block_length}: no answer could be graded, so it is left out", style="red"
            )
    if summaries:
        comparison, by_task = compare(summaries, groups), _by_task(groups, summaries)
        run_dir.evaluation_path.mkdir(parents=True, exist_ok=True)
        _write_csv(summaries, run_dir.evaluation_path / "summary.csv")
        document = {
            "policy": policy_name,
            "alpha": alpha,
            "canvas_length": canvas_length,
            "environment": environment_record(),
            "comparison": comparison,
            "arms": [asdict(summary) for summary in summaries],
            "tasks": {
                task: {"comparison": compare(own, mine), "arms": [asdict(summary) for summary in own]}
                for task, (own, mine) in by_task.items()
            },
        }
        (run_dir.evaluation_path / "results.json").write_text(json.dumps(document, indent=1))
        title = f"Accuracy against forward passes (reward: alpha = {alpha:g})"
        pareto = run_dir.plots_path / "pareto.png"
        plot_pareto(summaries, pareto, alpha=alpha, canvas_length=canvas_length, title=title)
        # The table of a single task is the one of the whole.
        for task, (own, mine) in by_task.items() if len(by_task) > 1 else ():
            console.print(f"task {task}", style="bold")
            console.print(results_table(own, alpha=alpha))
            console.print(_comparison_line(compare(own, mine)))
            console.print()
        console.print(results_table(summaries, alpha=alpha))
        console.print(_comparison_line(comparison))
    plot_learning(history, run_dir.plots_path / "learning.png")
    console.print(breakdown_table(history))
    console.print(f"policy   {run_dir.location}/policy.safetensors (of {policy_name})", soft_wrap=True)
    console.print(f"results  {run_dir.location}/evaluation/ (summary.csv, results.json, records.jsonl)", soft_wrap=True)
    console.print(f"plots    {run_dir.location}/plots/ (pareto.png, learning.png)", soft_wrap=True)


def _by_task(
    groups: Mapping[Arm, list[ExampleRecord]], summaries: Sequence[ArmSummary]
) -> dict[str, tuple[Sequence[ArmSummary], Mapping[Arm, list[ExampleRecord]]]]:
    """Task -> the arms that have validly graded records of it, with these alone; of a single task that is the whole."""
    tasks = sorted({record.task for records in groups.values() for record in records})
    if len(tasks) == 1:
        return {tasks[0]: (summaries, groups)}
    found: dict[str, tuple[Sequence[ArmSummary], Mapping[Arm, list[ExampleRecord]]]] = {}
    for task in tasks:
        mine = {arm: [record for record in records if record.task == task] for arm, records in groups.items()}
        mine = {arm: records for arm, records in mine.items() if any(r.grade != "grader_error" for r in records)}
        found[task] = ([summarise(arm, records) for arm, records in mine.items()], mine)
    return found


def compare(summaries: Sequence[ArmSummary], groups: Mapping[Arm, list[ExampleRecord]]) -> dict[str, Any] | None:
    """The learned policy against the heuristic with the best mean reward on the same problems, paired by problem.

    The heuristic is chosen with hindsight on the test problems themselves, which favours the heuristics.
    """
    learned = [summary for summary in summaries if summary.arm.sampler == LEARNED]
    heuristics = [summary for summary in summaries if summary.arm.sampler != LEARNED]
    if not learned or not heuristics:
        return None
    best = max(heuristics, key=lambda summary: summary.reward.mean)
    margin = paired_reward_difference(groups[learned[0].arm], groups[best.arm])
    return {"best_heuristic": best.arm.label, "block_length": best.arm.block_length, "margin": asdict(margin)}


def results_table(summaries: Sequence[ArmSummary], *, alpha: float) -> Table:
    """The best setting of each sampler at each block length, by reward; the winner is marked."""
    best: dict[tuple[str, int], ArmSummary] = {}
    for summary in summaries:
        key = (summary.arm.sampler, summary.arm.block_length)
        if key not in best or summary.reward.mean > best[key].reward.mean:
            best[key] = summary
    num = summaries[0].num_examples
    table = Table(
        title=f"{num} held-out problems, 95% intervals; per sampler and block the parameter with the best reward",
        title_justify="left",
    )
    for name in ("sampler", "block", "accuracy", "NFE", f"reward (alpha = {alpha:g})", ""):
        table.add_column(name, justify="left" if name in ("sampler", "") else "right")
    ordered = sorted(best.values(), key=lambda summary: -summary.reward.mean)
    for rank, summary in enumerate(ordered):
        style = "bold red" if summary.arm.sampler == LEARNED else None
        table.add_row(
            summary.arm.label,
            str(summary.arm.block_length),
            _share(summary.accuracy),
            f"{summary.nfe.mean:.2f}",
            _number(summary.reward),
            "best" if rank == 0 else "",
            style=style,
        )
    return table


_STATES = {
    "forward": "dLLM forward",
    "learner": "learner",
    "policy": "policy forward",
    "scheduling": "scheduling",
    "grading": "grading",
    "weights": "weights",
    "waiting": "waiting",
    "checkpoint": "checkpoints",
    "driver": "driver",
}
_BULK = ("forward", "learner")


def breakdown_table(history: Sequence[dict[str, Any]]) -> Table:
    """Wall-clock of training, validation included, by cause; the lines add up to the total."""
    totals = dict.fromkeys(_STATES, 0.0)
    for line in history:
        for name, seconds in line["times"].items():
            totals[name] = totals.get(name, 0.0) + seconds
    total = sum(totals.values())
    table = Table(title="Where the wall-clock of training went", title_justify="left")
    table.add_column("state")
    table.add_column("seconds", justify="right")
    table.add_column("share", justify="right")

    def add(label: str, seconds: float) -> None:
        table.add_row(label, f"{seconds:.1f}", f"{seconds / max(total, 1e-9):.1%}")

    for name, seconds in totals.items():
        add(_STATES.get(name, name), seconds)
    table.add_section()
    add("total", total)
    add("other than dLLM forward and learner", total - sum(totals[name] for name in _BULK))
    return table


def _comparison_line(comparison: dict[str, Any] | None) -> str:
    if comparison is None:
        return ""
    margin = Interval(**comparison["margin"])
    return (
        f"learned policy minus best heuristic ({comparison['best_heuristic']}, block {comparison['block_length']}), "
        f"paired by problem: reward {margin.mean:+.4f} [{margin.low:+.4f}, {margin.high:+.4f}]"
    )


def _share(interval: Interval) -> str:
    return f"{interval.mean:.1%} [{interval.low:.1%}, {interval.high:.1%}]"


def _number(interval: Interval) -> str:
    return f"{interval.mean:.4f} [{interval.low:.4f}, {interval.high:.4f}]"


def _write_csv(summaries: Sequence[ArmSummary], path: Path) -> None:
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        columns = ("accuracy", "nfe", "reward")
        head = [f"{name}{end}" for name in columns for end in ("", "_low", "_high")]
        writer.writerow(
            ["sampler", "parameter", "block_length", "num_examples", *head, "num_step_limit", "num_grader_errors"]
        )
        for summary in summaries:
            intervals = (summary.accuracy, summary.nfe, summary.reward)
            figures = [f"{value:.6f}" for i in intervals for value in (i.mean, i.low, i.high)]
            arm = summary.arm
            head_cells = [arm.sampler, arm.parameter, arm.block_length, summary.num_examples]
            writer.writerow([*head_cells, *figures, summary.num_step_limit, summary.num_grader_errors])
