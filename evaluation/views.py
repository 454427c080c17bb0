"""The tables of one evaluation: each task's own, and the one over all tasks where they share a canvas length and all arms."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from evaluation.arms import Arm
from evaluation.records import ExampleRecord
from evaluation.results import ArmSummary, Comparison, best_heuristic, by_arm, compare_pairs, summarise
from evaluation.statistics import holm

ALL_TASKS = "all tasks"
MIN_SHARE = 0.5
"""Of the problems that the arm with most has: an arm with fewer, as failed shards leave it, is not ranked among the others."""


@dataclass(frozen=True, slots=True)
class View:
    """Arms on one set of examples."""

    name: str
    canvas_length: int
    groups: Mapping[Arm, list[ExampleRecord]]
    summaries: list[ArmSummary]
    """Of the arms that have validly graded records."""
    comparisons: Mapping[Arm, Comparison]
    """Each arm but the best heuristic against it, paired by example."""

    @property
    def ranked(self) -> list[ArmSummary]:
        """Those of arms that were decoded on most problems."""
        return ranked(self.summaries)

    @property
    def best_heuristic(self) -> ArmSummary | None:
        return best_heuristic(self.ranked)

    @property
    def learned(self) -> ArmSummary | None:
        """The learned arm with the best mean reward."""
        return max(self._learned, key=lambda summary: summary.reward.mean, default=None)

    @property
    def num_learned(self) -> int:
        """Learned arms that `learned` is the best of."""
        return len(self._learned)

    @property
    def _learned(self) -> list[ArmSummary]:
        return [summary for summary in self.ranked if summary.arm.is_learned]

    @property
    def ungraded(self) -> list[Arm]:
        """Arms none of whose answers could be graded."""
        graded = {summary.arm for summary in self.summaries}
        return [arm for arm, records in self.groups.items() if records and arm not in graded]


def ranked(summaries: Sequence[ArmSummary]) -> list[ArmSummary]:
    """Those with at least `MIN_SHARE` of the problems that the largest has."""
    most = max((summary.num_examples for summary in summaries), default=0)
    return [summary for summary in summaries if summary.num_examples >= MIN_SHARE * most]


def make_views(records: Sequence[ExampleRecord]) -> list[View]:
    """The view over all tasks first, where there is one beside that of a single task; views without a valid grade are left out."""
    by_task: dict[str, list[ExampleRecord]] = {}
    for record in records:
        by_task.setdefault(record.task, []).append(record)
    views = [make_view(task, mine) for task, mine in sorted(by_task.items())]
    lengths, arm_sets = {view.canvas_length for view in views}, {frozenset(view.groups) for view in views}
    if len(views) > 1 and len(lengths) == len(arm_sets) == 1:
        views.insert(0, make_view(ALL_TASKS, records))
    return [view for view in views if view.summaries]


def make_view(name: str, records: Sequence[ExampleRecord]) -> View:
    """All arms of `records`, which share a canvas length, summarised and compared."""
    groups = by_arm(records)
    (canvas_length,) = {int(record.settings["canvas_length"]) for record in records}
    graded = {arm: mine for arm, mine in groups.items() if any(r.grade != "grader_error" for r in mine)}
    summaries = [summarise(arm, mine) for arm, mine in graded.items()]
    best = best_heuristic(ranked(summaries))
    comparisons = {}
    for arm, mine in graded.items():
        pair = compare_pairs(mine, graded[best.arm]) if best is not None and arm != best.arm else None
        if pair is not None:
            comparisons[arm] = pair
    adjusted = holm([pair.p_reward for pair in comparisons.values()])
    comparisons = {
        arm: replace(pair, p_reward_adjusted=p) for (arm, pair), p in zip(comparisons.items(), adjusted, strict=True)
    }
    return View(name, canvas_length, groups, summaries, comparisons)
