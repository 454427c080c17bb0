"""A finished study as a table and plots: Markdown for docs/studies.md, the same on the terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from rich.table import Table

from evaluation.arms import Arm
from learner.studies.arms import StudyRun
from learner.studies.catalogue import Study
from learner.studies.figures import Figures, curve, heuristic_figures, learned_figures, over_seeds

Row = tuple[str, ...]
HEAD: Row = ("arm", "accuracy", "NFE", "reward", "seeds")
_COLOURS = ("#1a73e8", "#d93025", "#188038", "#f9ab00", "#6f42c1", "#00838f", "#c2185b", "#5f6368", "#795548", "#9e9d24",
            "#3949ab", "#ef6c00")  # fmt: skip


def study_rows(study: Study, runs: Sequence[StudyRun]) -> list[Row]:
    """One row per trained arm, best first, then the best setting of every heuristic."""
    trained = [
        (name, [learned_figures(run, alpha=study.alpha) for run in mine]) for name, mine in _by_arm(runs).items()
    ]
    trained.sort(key=lambda item: -float(np.mean([figures.reward for figures in item[1]])))
    rows = [_row(name, figures) for name, figures in trained]
    for arm, figures in best_heuristics(study, runs).items():
        rows.append(_row(f"heuristic: {arm.label}, block {arm.block_length}", [figures]))
    return rows


def best_heuristics(study: Study, runs: Sequence[StudyRun]) -> dict[Arm, Figures]:
    """Of each sampler the setting with the best reward, chosen with hindsight on the test problems."""
    best: dict[str, tuple[Arm, Figures]] = {}
    for run in runs:
        for arm, figures in heuristic_figures(run, alpha=study.alpha).items():
            if arm.sampler not in best or figures.reward > best[arm.sampler][1].reward:
                best[arm.sampler] = (arm, figures)
    return dict(sorted(best.values(), key=lambda pair: -pair[1].reward))


def markdown(study: Study, rows: Sequence[Row], *, command: str, date: str, notes: str = "") -> str:
    """The study's section of docs/studies.md."""
    lines = [f"## {study.name}", "", study.question, "", f"`{command}`, {date}{notes}", ""]
    lines += [f"| {' | '.join(HEAD)} |", f"|{'|'.join('---' for _ in HEAD)}|"]
    lines += [f"| {' | '.join(row)} |" for row in rows]
    return "\n".join(lines) + "\n"


def terminal_table(study: Study, rows: Sequence[Row]) -> Table:
    """The same rows on the terminal."""
    table = Table(title=f"{study.name}: {study.question}", title_justify="left")
    for name in HEAD:
        table.add_column(name, justify="left" if name == "arm" else "right")
    for row in rows:
        table.add_row(*row)
    return table


def plot_frontier(study: Study, runs: Sequence[StudyRun], path: Path) -> None:
    """Accuracy against NFE: every arm's seeds and every heuristic setting."""
    figure = Figure(figsize=(8.5, 5.4), layout="constrained")
    axes = figure.subplots()
    heuristics = [figures for run in runs for figures in heuristic_figures(run, alpha=study.alpha).values()]
    axes.plot(
        [f.nfe for f in heuristics], [f.accuracy for f in heuristics], "o", color="#bdc1c6", ms=5, label="heuristics"
    )
    for colour, (name, mine) in zip(_cycle(len(runs)), _by_arm(runs).items(), strict=False):
        points = [learned_figures(run, alpha=study.alpha) for run in mine]
        axes.plot([p.nfe for p in points], [p.accuracy for p in points], "*", color=colour, ms=11, label=name)
    axes.set(xscale="log", xlabel="NFE (forward passes per answer)", ylabel="accuracy")
    axes.set_title(f"{study.name}: accuracy against forward passes, one star per seed", loc="left", fontsize=11)
    axes.legend(fontsize=7, frameon=False, loc="best")
    _save(figure, path)


def plot_curves(study: Study, runs: Sequence[StudyRun], path: Path) -> None:
    """Training metrics over updates; a line per arm is the mean over seeds."""
    figure = Figure(figsize=(4.2 * len(study.curves), 3.6), layout="constrained")
    for axes, name in zip(np.atleast_1d(figure.subplots(1, len(study.curves))), study.curves, strict=True):
        for colour, (arm, mine) in zip(_cycle(len(runs)), _by_arm(runs).items(), strict=False):
            found = [curve(run, name) for run in mine]
            length = min(len(steps) for steps, _ in found)
            if length > 1:
                mean = np.mean([values[:length] for _, values in found], axis=0)
                axes.plot(found[0][0][:length], mean, color=colour, lw=1.2, label=arm)
        axes.set(xlabel="update", title=name)
    axes.legend(fontsize=6, frameon=False)
    _save(figure, path)


def _row(name: str, figures: Sequence[Figures]) -> Row:
    return (
        name,
        over_seeds([f.accuracy for f in figures]).text(percent=True),
        over_seeds([f.nfe for f in figures]).text(digits=2),
        over_seeds([f.reward for f in figures]).text(digits=4),
        str(len(figures)),
    )


def _by_arm(runs: Sequence[StudyRun]) -> Mapping[str, list[StudyRun]]:
    groups: dict[str, list[StudyRun]] = {}
    for run in runs:
        groups.setdefault(run.arm.name, []).append(run)
    return groups


def _cycle(count: int) -> list[str]:
    return [_COLOURS[number % len(_COLOURS)] for number in range(count)]


def _save(figure: Figure, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150)
