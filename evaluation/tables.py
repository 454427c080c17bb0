"""What the terminal shows at the end: one table per task, the paired comparison, and where the time went."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rich.table import Table

from evaluation.results import ArmSummary
from evaluation.statistics import Interval
from evaluation.views import View


def results_table(summaries: Sequence[ArmSummary], *, alpha: float) -> Table:
    """The best setting of each sampler at each block length, by reward; the winner is marked."""
    best: dict[tuple[str, str, int], ArmSummary] = {}
    for summary in summaries:
        key = (summary.arm.sampler, summary.arm.policy, summary.arm.block_length)
        if key not in best or summary.reward.mean > best[key].reward.mean:
            best[key] = summary
    nums = sorted({summary.num_examples for summary in summaries})
    num = " to ".join(str(each) for each in dict.fromkeys((nums[0], nums[-1])))
    table = Table(
        title=f"{num} held-out problems, 95% intervals; per sampler and block the parameter with the best reward",
        title_justify="left",
    )
    for name in ("sampler", "block", "accuracy", "NFE", f"reward (alpha = {alpha:g})", ""):
        table.add_column(name, justify="left" if name in ("sampler", "") else "right")
    ordered = sorted(best.values(), key=lambda summary: -summary.reward.mean)
    for rank, summary in enumerate(ordered):
        style = "bold red" if summary.arm.is_learned else None
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


def comparison_line(view: View) -> str:
    """The learned policy against the best heuristic; empty without both."""
    learned, best = view.learned, view.best_heuristic
    if learned is None or best is None or learned.arm not in view.comparisons:
        return ""
    pair = view.comparisons[learned.arm]
    ours, p = "learned policy", f"p = {pair.p_reward:.4f}"
    if view.num_learned > 1:
        ours = f"best of {view.num_learned} learned ({learned.arm.label}, block {learned.arm.block_length})"
        p += f", {pair.p_reward_adjusted:.4f} for the best of all compared (Holm)"
    return (
        f"{ours} minus best heuristic ({best.arm.label}, block {best.arm.block_length}), paired by problem: "
        f"reward {pair.reward.mean:+.4f} [{pair.reward.low:+.4f}, {pair.reward.high:+.4f}], {p}"
    )


def _share(interval: Interval) -> str:
    return f"{interval.mean:.1%} [{interval.low:.1%}, {interval.high:.1%}]"


def _number(interval: Interval) -> str:
    return f"{interval.mean:.4f} [{interval.low:.4f}, {interval.high:.4f}]"
