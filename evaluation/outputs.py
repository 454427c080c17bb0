"""Everything that an evaluation leaves behind, written from its records: tables, CSV files, plots, manifest and report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from cluster.logs import wide_console
from evaluation.csv_files import detailed_csv, summary_csv
from evaluation.environment import environment_record
from evaluation.manifest import manifest
from evaluation.plots import pareto_png
from evaluation.records import ExampleRecord, to_lines
from evaluation.results_dir import ResultsDir
from evaluation.statistics import hypervolume
from evaluation.tables import comparison_line, results_table
from evaluation.views import ALL_TASKS, View, make_views

_MANIFEST = "manifest.json"


@dataclass(frozen=True, slots=True)
class Context:
    """What the files say beside the records."""

    alpha: float
    settings: Mapping[str, Any]
    """Those that the results directory was claimed with."""
    evaluation: Mapping[str, Any]
    """The sweep."""
    policies: Mapping[str, str] = field(default_factory=dict)
    """Policy of a learned arm -> what it is."""
    actors: Sequence[Mapping[str, Any]] = ()
    """What the actors ran on."""


def write_outputs(results: ResultsDir, records: Sequence[ExampleRecord], context: Context) -> list[View]:
    """Writes records.jsonl, results.json, summary.csv, detailed.csv, pareto.png and manifest.json, and prints the tables."""
    views = make_views(records)
    print_tables(views, alpha=context.alpha)
    files = {
        "records.jsonl": to_lines(records),
        "summary.csv": summary_csv(views),
        "detailed.csv": detailed_csv(views),
    }
    if views:
        main = views[0]
        title = f"Accuracy against forward passes (reward: alpha = {context.alpha:g})"
        files["pareto.png"] = pareto_png(
            main.summaries, alpha=context.alpha, canvas_length=main.canvas_length, title=title
        )
    for name, data in files.items():
        results.write(name, data)
    results.write_json("results.json", _document(views, context))
    actors = [dict(actor) for actor in context.actors]
    results.write_json(_MANIFEST, manifest(context.settings, context.evaluation, files, actors=actors))
    return views


def actors_before(results: ResultsDir) -> list[dict[str, Any]]:
    """What the actors of the command ran on that wrote the outputs last; none where there are none."""
    if not results.exists(_MANIFEST):
        return []
    actors: list[dict[str, Any]] = results.read_json(_MANIFEST)["actors"]
    return actors


def print_tables(views: Sequence[View], *, alpha: float) -> None:
    """Each task's table and comparison, that over all tasks last."""
    console = wide_console()
    for view in [
        *(view for view in views if view.name != ALL_TASKS),
        *(view for view in views if view.name == ALL_TASKS),
    ]:
        for arm in view.ungraded:
            console.print(
                f"{arm.label}, block {arm.block_length}: no answer could be graded, so it is left out", style="red"
            )
        for summary in view.summaries:
            if summary not in view.ranked:
                console.print(
                    f"{summary.arm.label}, block {summary.arm.block_length}: only {summary.num_examples} problems were "
                    "decoded, so it is not ranked",
                    style="red",
                )
        if len(views) > 1:
            console.print(view.name, style="bold")
        console.print(results_table(view.ranked, alpha=alpha))
        console.print(comparison_line(view))


def _document(views: Sequence[View], context: Context) -> dict[str, Any]:
    document: dict[str, Any] = {
        "alpha": context.alpha,
        "policies": dict(context.policies),
        "environment": environment_record(),
        "tasks": {view.name: _view_document(view) for view in views if view.name != ALL_TASKS},
    }
    return document | _view_document(views[0]) if views else document


def _view_document(view: View) -> dict[str, Any]:
    best = view.best_heuristic
    return {
        "canvas_length": view.canvas_length,
        "hypervolume": hypervolume([(s.nfe.mean, s.accuracy.mean) for s in view.ranked], view.canvas_length),
        "best_heuristic": best and {"label": best.arm.label, "block_length": best.arm.block_length},
        "comparison": _comparison(view),
        "arms": [asdict(summary) | {"label": summary.arm.label} for summary in view.summaries],
    }


def _comparison(view: View) -> dict[str, Any] | None:
    """The learned policy with the best reward against the best heuristic; None without both."""
    learned, best = view.learned, view.best_heuristic
    if learned is None or best is None or learned.arm not in view.comparisons:
        return None
    pair = view.comparisons[learned.arm]
    return {
        "learned": learned.arm.label,
        "best_heuristic": best.arm.label,
        "block_length": best.arm.block_length,
        "margin": asdict(pair.reward),
        "p": pair.p_reward,
        "p_holm": pair.p_reward_adjusted,
        "num_learned": view.num_learned,
    }
