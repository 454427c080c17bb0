"""A finished study as plots: the frontier of accuracy against NFE, or accuracy alone where all take as many passes, and training
curves."""

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
from learner.studies.tables import best_heuristics, by_arm

_COLOURS = ("#d93025", "#6f42c1", "#ef6c00", "#000000", "#3949ab", "#ff6fae", "#9e9d24", "#00b8d4", "#7f0000", "#8bc34a",
            "#b39ddb", "#607d8b")  # fmt: skip
"""Of arms; those of heuristics are `sampler_colour`'s."""
_SAME_NFE = 1.02
"""Largest over smallest NFE of samplers between which passes make no difference."""
_SMOOTHED_UPDATES = 5
_MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">", "h")


def plot_frontier(study: Study, measured: Sequence[Measured], path: Path) -> None:
    """Accuracy against NFE: every arm's seeds and every heuristic setting; a panel for each thing that arms are evaluated on.

    Where all take as many passes, a line per arm and heuristic instead, with a star per seed.
    """
    nfes = [each.learned.nfe for each in measured] + [f.nfe for each in measured for f in each.heuristics.values()]
    if max(nfes) <= _SAME_NFE * min(nfes):
        _plot_accuracy(study, measured, path)
        return
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


def _plot_accuracy(study: Study, measured: Sequence[Measured], path: Path) -> None:
    colours = _colours(each.run.arm.label for each in measured)
    lines = [
        (mine[0].run.arm.label, [each.learned.accuracy for each in mine], "*", colours[mine[0].run.arm.label])
        for mine in by_arm(measured).values()
    ]
    for arm, figures in best_heuristics(measured).items():
        lines.append((f"heuristic: {arm.label}", [figures.accuracy], "D", sampler_colour(arm.sampler)))
    lines.sort(key=lambda line: float(np.mean(line[1])))
    figure = Figure(figsize=(8.5, 0.8 + 0.36 * len(lines)), layout="constrained")
    axes = figure.subplots()
    for number, (_, accuracies, marker, colour) in enumerate(lines):
        axes.plot(accuracies, [number] * len(accuracies), marker, color=colour, ms=10 if marker == "*" else 6)
    axes.set_yticks(range(len(lines)), [name for name, *_ in lines])
    axes.set(xlabel=f"accuracy, all at {measured[0].learned.nfe:.2f} passes")
    axes.grid(axis="y", lw=0.3)
    axes.set_title(f"{study.name}: one star per seed", loc="left", fontsize=11)
    _save(figure, path)


def plot_curves(study: Study, measured: Sequence[Measured], path: Path) -> None:
    """Training metrics over updates, supervised ones not counted; a line per arm is the mean over seeds and some updates."""
    colours = _colours(each.run.arm.label for each in measured)
    figure = Figure(figsize=(4.2 * len(study.curves), 3.6), layout="constrained")
    for axes, name in zip(np.atleast_1d(figure.subplots(1, len(study.curves))), study.curves, strict=True):
        for arm, mine in by_arm(measured).items():
            found = [each.curves.get(name, ([], [])) for each in mine]
            length = min(len(steps) for steps, _ in found)
            if length > 1:
                mean, width = np.mean([values[:length] for _, values in found], axis=0), min(length, _SMOOTHED_UPDATES)
                smooth = np.convolve(mean, np.full(width, 1 / width), "valid")
                updates = np.asarray(found[0][0][:length]) - mine[0].num_supervised
                colour = colours[mine[0].run.arm.label]
                axes.plot(updates, mean, color=colour, lw=0.5, alpha=0.4)
                axes.plot(updates[width - 1 :], smooth, color=colour, lw=1.4, label=arm)
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
