"""A finished study as tables: Markdown for docs/studies.md, the same on the terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from rich.table import Table

from evaluation.arms import Arm
from learner.studies.catalogue import Gap, Study
from learner.studies.figures import Figures, Measured, over_seeds

Row = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Rows:
    """A table without its looks."""

    title: str
    head: Row
    rows: list[Row]

    def markdown(self) -> list[str]:
        """Its lines."""
        return [
            f"| {' | '.join(self.head)} |",
            f"|{'|'.join('---' for _ in self.head)}|",
            *(f"| {' | '.join(row)} |" for row in self.rows),
        ]

    def terminal(self) -> Table:
        """For the console."""
        table = Table(title=self.title, title_justify="left")
        for number, name in enumerate(self.head):
            table.add_column(name, justify="right" if number else "left")
        for row in self.rows:
            table.add_row(*row)
        return table


def study_tables(study: Study, measured: Sequence[Measured]) -> list[Rows]:
    """Arms and heuristics, set apart by what they are evaluated on; then the gaps that the study is about."""
    panels = list(dict.fromkeys(each.run.arm.on for each in measured))
    tables = []
    for on in panels:
        here = [each for each in measured if each.run.arm.on == on]
        baseline = _baseline_rewards(study, here)
        head = (
            "trained on" if on else "arm",
            "accuracy",
            "NFE",
            "reward",
            *([f"minus {study.baseline}"] if baseline else []),
            *(f"Pass@{n}" for n in study.pass_at),
            "seeds",
        )
        tables.append(Rows(f"evaluated on {on}" if on else study.question, head, _arm_rows(study, here, baseline)))
    if pairs := _pair_rows(study, measured):
        head = ("arm", "against", "accuracy", "NFE", "reward")
        tables.append(Rows("what one setting changes, paired by seed", head, pairs))
    if gaps := _gap_rows(study, measured):
        head = ("evaluated on", "trained on", "reward lost", "the mixture's gain", "share of the gap closed")
        tables.append(
            Rows("reward lost by policies trained on something else, and what the mixture gets back", head, gaps)
        )
    return tables


def _arm_rows(study: Study, measured: Sequence[Measured], baseline: Mapping[int, float]) -> list[Row]:
    """One row per trained arm, best first, then the best setting of every heuristic."""
    trained = [
        (mine[0].run.arm.label, {each.run.seed: each.learned for each in mine}) for mine in by_arm(measured).values()
    ]
    trained.sort(key=lambda item: -float(np.mean([figures.reward for figures in item[1].values()])))
    rows = [_row(study, name, figures, baseline) for name, figures in trained]
    for arm, figures in best_heuristics(measured).items():
        everywhere = dict.fromkeys(baseline or (0,), figures)
        rows.append(_row(study, f"heuristic: {arm.label}, block {arm.block_length}", everywhere, baseline, num_seeds=1))
    return rows


def _baseline_rewards(study: Study, measured: Sequence[Measured]) -> Mapping[int, float]:
    """Training seed -> reward of the study's baseline, a heuristic's the same for all; nothing where it is not evaluated."""
    for arm, figures in best_heuristics(measured).items():
        if arm.sampler == study.baseline:
            return {each.run.seed: figures.reward for each in measured}
    return {each.run.seed: each.learned.reward for each in measured if each.run.arm.name == study.baseline}


def best_heuristics(measured: Sequence[Measured]) -> dict[Arm, Figures]:
    """Of each sampler the setting with the best reward, chosen with hindsight on the test problems."""
    best: dict[str, tuple[Arm, Figures]] = {}
    for each in measured:
        for arm, figures in each.heuristics.items():
            if arm.sampler not in best or figures.reward > best[arm.sampler][1].reward:
                best[arm.sampler] = (arm, figures)
    return dict(sorted(best.values(), key=lambda pair: -pair[1].reward))


def by_arm(measured: Sequence[Measured]) -> Mapping[str, list[Measured]]:
    """Arm -> its runs, seed by seed."""
    groups: dict[str, list[Measured]] = {}
    for each in measured:
        groups.setdefault(each.run.arm.name, []).append(each)
    return groups


def _row(
    study: Study,
    name: str,
    of_seed: Mapping[int, Figures],
    baseline: Mapping[int, float],
    *,
    num_seeds: int | None = None,
) -> Row:
    """`num_seeds` where the figures of several are those of one run."""
    figures = list(of_seed.values())[:num_seeds]
    return (
        name,
        over_seeds([f.accuracy for f in figures]).text(percent=True),
        over_seeds([f.nfe for f in figures]).text(digits=2),
        over_seeds([f.reward for f in figures]).text(digits=4),
        *([_difference(of_seed, baseline)] if baseline else []),
        *(_pass_at(figures, n) for n in study.pass_at),
        str(len(figures)),
    )


def _difference(of_seed: Mapping[int, Figures], baseline: Mapping[int, float]) -> str:
    """Paired by training seed; a dash for the baseline itself, and where there is none yet."""
    differences = [of_seed[seed].reward - baseline[seed] for seed in sorted(of_seed.keys() & baseline.keys())]
    if not any(differences):
        return "-"
    if len(set(differences)) == 1:
        # Of heuristics, whose figures are those of one run.
        differences = differences[:1]
    return over_seeds(differences).text(digits=4, signed=True)


def _pass_at(figures: Sequence[Figures], num: int) -> str:
    """A dash for what draws nothing, and so has a single sample."""
    if any(len(f.pass_at) < num for f in figures):
        return "-"
    return over_seeds([f.pass_at[num - 1] for f in figures]).text(percent=True)


def _pair_rows(study: Study, measured: Sequence[Measured]) -> list[Row]:
    """Of the pairs whose arms were both run."""
    groups = by_arm(measured)
    return [_pair_row(*pair, groups) for pair in study.pairs if set(pair) <= set(groups)]


def _pair_row(name: str, against: str, groups: Mapping[str, list[Measured]]) -> Row:
    ours, theirs = ({each.run.seed: each.learned for each in groups[arm]} for arm in (name, against))
    both = [(ours[seed], theirs[seed]) for seed in sorted(ours.keys() & theirs.keys())]
    accuracy = over_seeds([mine.accuracy - other.accuracy for mine, other in both])
    nfe = over_seeds([mine.nfe - other.nfe for mine, other in both])
    reward = over_seeds([mine.reward - other.reward for mine, other in both])
    return (
        name,
        against,
        accuracy.text(percent=True, signed=True),
        nfe.text(digits=2, signed=True),
        reward.text(digits=4, signed=True),
    )


def _gap_rows(study: Study, measured: Sequence[Measured]) -> list[Row]:
    """Of the gaps whose arms were all run; differences are paired by seed."""
    groups = by_arm(measured)
    return [_gap_row(gap, groups) for gap in study.gaps if {gap.own, gap.moved, gap.mixture} <= set(groups)]


def _gap_row(gap: Gap, groups: Mapping[str, list[Measured]]) -> Row:
    own, moved, mixture = (
        {each.run.seed: each.learned.reward for each in groups[name]} for name in (gap.own, gap.moved, gap.mixture)
    )
    seeds = sorted(own.keys() & moved.keys() & mixture.keys())
    lost = over_seeds([own[seed] - moved[seed] for seed in seeds])
    closed = over_seeds([mixture[seed] - moved[seed] for seed in seeds])
    share = f"{closed.mean / lost.mean:.0%}" if lost.mean > 0 else "no gap"
    arm = groups[gap.moved][0].run.arm
    return arm.on, arm.label, lost.text(digits=4), closed.text(digits=4), share
