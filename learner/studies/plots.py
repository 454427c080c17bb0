"""A finished study as plots: the frontier of accuracy against NFE, and training curves."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from evaluation.plots import sampler_colour
from learner.studies.catalogue import Study
from learner.studies.figures import Measured
from learner.studies.tables import by_arm

_COLOURS = ("#d93025", "#6f42c1", "#c2185b", "#ef6c00", "#3949ab", "#9e9d24", "#000000", "#e57373", "#4fc3f7", "#ad1457",
            "#5d4037", "#f06292")  # fmt: skip
"""Of arms; those of heuristics are `sampler_colour`'s."""
_MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">", "h")


def plot_frontier(study: Study, measured: Sequence[Measured], path: Path) -> None:
    """Accuracy against NFE: every arm's seeds and every heuristic setting; a panel for each thing that arms are evaluated on."""
    arms_on = Counter(on for on, _ in {(each.run.arm.on, each.run.arm.name) for each in measured})
    # Where there is a single arm, there is nothing to compare.
    panels = [on for on in dict.fromkeys(each.run.arm.on for each in measured) if arms_on[on] > 1 or len(arms_on) == 1]
    figure = Figure(figsize=(8.5 if len(panels) == 1 else 5.2 * len(panels), 5.4), layout="constrained")
    for axes, on in zip(np.atleast_1d(figure.subplots(1, len(panels))), panels, strict=True):
        here = [each for each in measured if each.run.arm.on == on]
        _draw_heuristics(axes, here)
        for colour, (name, mine) in zip(_cycle(len(here)), by_arm(here).items(), strict=False):
            points = [each.learned for each in mine]
            axes.plot([p.nfe for p in points], [p.accuracy for p in points], "*", color=colour, ms=11, label=name)
        axes.set(xscale="log", xlabel="NFE (forward passes per answer)", ylabel="accuracy")
        axes.set_title(on or f"{study.name}: one star per seed", loc="left", fontsize=11)
        axes.legend(fontsize=7, frameon=False, loc="best")
    _save(figure, path)


def plot_curves(study: Study, measured: Sequence[Measured], path: Path) -> None:
    """Training metrics over updates; a line per arm is the mean over seeds."""
    figure = Figure(figsize=(4.2 * len(study.curves), 3.6), layout="constrained")
    for axes, name in zip(np.atleast_1d(figure.subplots(1, len(study.curves))), study.curves, strict=True):
        for colour, (arm, mine) in zip(_cycle(len(measured)), by_arm(measured).items(), strict=False):
            found = [each.curves.get(name, ([], [])) for each in mine]
            length = min(len(steps) for steps, _ in found)
            if length > 1:
                mean = np.mean([values[:length] for _, values in found], axis=0)
                axes.plot(found[0][0][:length], mean, color=colour, lw=1.2, label=arm)
        axes.set(xlabel="update", title=name)
    axes.legend(fontsize=6, frameon=False)
    _save(figure, path)


def _draw_heuristics(axes: Any, measured: Sequence[Measured]) -> None:
    found = [(arm, figures) for each in measured for arm, figures in each.heuristics.items()]
    samplers = dict.fromkeys(arm.sampler for arm, _ in found)
    for number, sampler in enumerate(samplers):
        points = [figures for arm, figures in found if arm.sampler == sampler]
        axes.plot(
            [p.nfe for p in points], [p.accuracy for p in points], _MARKERS[number % len(_MARKERS)],
            color=sampler_colour(sampler), mfc="none", ms=5, label=sampler,
        )  # fmt: skip


def _cycle(count: int) -> list[str]:
    return [_COLOURS[number % len(_COLOURS)] for number in range(count)]


def _save(figure: Figure, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150)
