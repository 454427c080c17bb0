"""Plots of a run: the frontier of accuracy against NFE, and the learning curves."""

from __future__ import annotations

import io
import zlib
from collections.abc import Sequence
from typing import Any

import matplotlib.ticker
import numpy as np

from evaluation.arms import LEARNED
from evaluation.results import ArmSummary
from evaluation.statistics import frontier

_COLOURS = {"random": "#9aa0a6", "low_confidence": "#1a73e8", "threshold": "#188038", "factor": "#f9ab00",
            "margin": "#00838f", "entropy": "#795548", LEARNED: "#d93025"}  # fmt: skip
_OTHERS = ("#6f42c1", "#c2185b", "#00796b", "#5d4037", "#455a64", "#7cb342", "#0288d1", "#8e24aa")
_MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">")


def pareto_png(summaries: Sequence[ArmSummary], *, alpha: float, canvas_length: int, title: str) -> bytes:
    """Accuracy against mean NFE with 95% intervals; grey lines join points of equal reward."""
    figure, axes = _figure(8.5, 5.4)
    blocks = sorted({summary.arm.block_length for summary in summaries})
    left, right = 0.93, max(2.0, 1.15 * max(summary.nfe.mean for summary in summaries))
    bottom = max(0.0, min(summary.accuracy.low for summary in summaries) - 0.06)
    axes.set(xscale="log", xlim=(left, right), ylim=(bottom, 1.03), xlabel="NFE (forward passes per answer)")
    if alpha > 0:
        _draw_equal_rewards(axes, alpha=alpha, canvas_length=canvas_length, bottom=bottom, right=right)
    for summary in sorted(summaries, key=lambda s: s.arm.sampler == LEARNED):
        _draw_arm(axes, summary, _MARKERS[blocks.index(summary.arm.block_length) % len(_MARKERS)])
    heuristics = [summary for summary in summaries if summary.arm.sampler != LEARNED]
    best = frontier((summary.nfe.mean, summary.accuracy.mean) for summary in heuristics)
    axes.plot(
        [nfe for nfe, _ in best],
        [accuracy for _, accuracy in best],
        color="#5f6368",
        lw=1.2,
        ls="--",
        label="heuristic frontier",
        zorder=1,
    )
    for sampler in dict.fromkeys(summary.arm.sampler for summary in summaries):
        axes.plot([], [], "*" if sampler == LEARNED else "o", color=sampler_colour(sampler), label=sampler)
    for number, block in enumerate(blocks):
        axes.plot([], [], _MARKERS[number % len(_MARKERS)], color="#5f6368", mfc="none", label=f"block {block}")
    axes.set_xticks([tick for tick in (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 128, 256) if tick <= right])
    axes.get_xaxis().set_major_formatter(matplotlib.ticker.ScalarFormatter())
    axes.get_yaxis().set_major_formatter(matplotlib.ticker.PercentFormatter(1.0, decimals=0))
    axes.minorticks_off()
    axes.set_ylabel("accuracy")
    axes.set_title(title, loc="left", fontsize=11)
    axes.legend(fontsize=8, frameon=False, loc="lower right", ncols=2)
    return _png(figure)


def _draw_equal_rewards(axes: Any, *, alpha: float, canvas_length: int, bottom: float, right: float) -> None:
    """Lines of equal multiplicative reward, each labelled where it enters the picture."""
    nfe = np.geomspace(1, right, 200)
    unit = ((canvas_length - np.minimum(nfe, canvas_length) + 1) / canvas_length) ** alpha
    for reward in np.arange(0.1, 1.0, 0.1):
        axes.plot(nfe, reward / unit, color="#e4e4e4", lw=0.8, zorder=0)
        if reward > bottom:
            axes.annotate(f"reward {reward:.1f}", (1, reward), xytext=(4, 3), textcoords="offset points",
                          color="#9aa0a6", fontsize=7, zorder=0)  # fmt: skip


def _draw_arm(axes: Any, summary: ArmSummary, marker: str) -> None:
    is_learned = summary.arm.sampler == LEARNED
    accuracy, nfe = summary.accuracy, summary.nfe
    axes.errorbar(
        nfe.mean,
        accuracy.mean,
        xerr=[[nfe.mean - nfe.low], [nfe.high - nfe.mean]],
        yerr=[[accuracy.mean - accuracy.low], [accuracy.high - accuracy.mean]],
        fmt="*" if is_learned else marker,
        color=sampler_colour(summary.arm.sampler),
        ms=18 if is_learned else 6,
        alpha=1.0 if is_learned else 0.75,
        elinewidth=0.8,
        zorder=3 if is_learned else 2,
    )
    if is_learned:
        axes.annotate(f"learned: {accuracy.mean:.1%} in {nfe.mean:.2g} passes", (nfe.mean, accuracy.mean),
                      xytext=(0, 14), textcoords="offset points", ha="center", color=sampler_colour(LEARNED),
                      fontsize=9, fontweight="bold", zorder=4)  # fmt: skip


def sampler_colour(sampler: str) -> str:
    """The same in every plot."""
    return _COLOURS.get(sampler, _OTHERS[zlib.crc32(sampler.encode()) % len(_OTHERS)])


def learning_png(history: Sequence[dict[str, Any]]) -> bytes:
    """Reward, accuracy and NFE over updates; dots are the validation split."""
    figure, axes_row = _figure(11, 3.2, num_columns=3)
    for axes, name in zip(axes_row, ("reward", "accuracy", "nfe"), strict=True):
        for prefix, style in (("", "-"), ("validation_", "o")):
            points = [
                (line["step"], line["values"][prefix + name]) for line in history if prefix + name in line["values"]
            ]
            if points:
                axes.plot(*zip(*points, strict=True), style, color="#d93025" if prefix else "#1a73e8", lw=1.2, ms=4,
                          label="validation" if prefix else "training")  # fmt: skip
        axes.set(xlabel="policy update", title=name.upper() if name == "nfe" else name)
    axes_row[0].legend(fontsize=8, frameon=False)
    return _png(figure)


def _figure(width: float, height: float, *, num_columns: int = 1) -> Any:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    axes = figure.subplots(1, num_columns)
    for panel in np.atleast_1d(axes):
        panel.spines[["top", "right"]].set_visible(False)
    return figure, axes


def _png(figure: Any) -> bytes:
    data = io.BytesIO()
    figure.savefig(data, format="png", dpi=150)
    return data.getvalue()
