"""A finished study as plots: the frontier of accuracy against NFE, and training curves."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import matplotlib.ticker
import numpy as np
from matplotlib.figure import Figure

from evaluation.plots import sampler_colour
from learner.studies.catalogue import Study
from learner.studies.figures import Measured
from learner.studies.tables import by_arm

_COLOURS = ("#d93025", "#6f42c1", "#ef6c00", "#000000", "#3949ab", "#ff6fae", "#9e9d24", "#00b8d4", "#7f0000", "#8bc34a",
            "#b39ddb", "#607d8b")  # fmt: skip
"""Of arms; those of heuristics are `sampler_colour`'s."""
_MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">", "h")


def plot_frontier(study: Study, measured: Sequence[Measured], path: Path) -> None:
    """Accuracy against NFE: every arm's seeds and every heuristic setting; a panel for each thing that arms are evaluated on."""
    arms_on = Counter(on for on, _ in {(each.run.arm.on, each.run.arm.name) for each in measured})
    # Where there is a single arm, there is nothing to compare.
    panels = [on for on in dict.fromkeys(each.run.arm.on for each in measured) if arms_on[on] > 1 or len(arms_on) == 1]
    colours = _colours(each.run.arm.label for each in measured)
    figure = Figure(figsize=(8.5 if len(panels) == 1 else 5.2 * len(panels), 5.4), layout="constrained")
    for axes, on in zip(np.atleast_1d(figure.subplots(1, len(panels))), panels, strict=True):
        here = [each for each in measured if each.run.arm.on == on]
        _draw_heuristics(axes, here)
        for mine in by_arm(here).values():
            points, label = [each.learned for each in mine], mine[0].run.arm.label
            nfes, accuracies = [p.nfe for p in points], [p.accuracy for p in points]
            axes.plot(nfes, accuracies, "*", color=colours[label], ms=11, label=label)
        axes.set(xscale="log", xlabel="NFE (forward passes per answer)", ylabel="accuracy")
        axes.xaxis.set_major_locator(matplotlib.ticker.LogLocator(subs=(1, 2, 3, 5)))
        axes.xaxis.set_major_formatter(matplotlib.ticker.ScalarFormatter())
        axes.xaxis.set_minor_locator(matplotlib.ticker.NullLocator())
        axes.set_title(on or f"{study.name}: one star per seed", loc="left", fontsize=11)
        axes.legend(fontsize=7, frameon=False, loc="upper left", bbox_to_anchor=(1.0, 1.0))
    _save(figure, path)


def plot_curves(study: Study, measured: Sequence[Measured], path: Path) -> None:
    """Training metrics over updates; a line per arm is the mean over seeds."""
    colours = _colours(each.run.arm.label for each in measured)
    figure = Figure(figsize=(4.2 * len(study.curves), 3.6), layout="constrained")
    for axes, name in zip(np.atleast_1d(figure.subplots(1, len(study.curves))), study.curves, strict=True):
        for arm, mine in by_arm(measured).items():
            found = [each.curves.get(name, ([], [])) for each in mine]
            length = min(len(steps) for steps, _ in found)
            if length > 1:
                mean = np.mean([values[:length] for _, values in found], axis=0)
                axes.plot(found[0][0][:length], mean, color=colours[mine[0].run.arm.label], lw=1.2, label=arm)
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


def _colours(labels: Iterable[str]) -> dict[str, str]:
    return {label: _COLOURS[number % len(_COLOURS)] for number, label in enumerate(dict.fromkeys(labels))}


def _save(figure: Figure, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150)
