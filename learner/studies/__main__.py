"""Runs a study arm by arm and prints its table.

    python -m learner.studies NAME [--quick] [--seeds 0 1 2] [--out DIR]

What is finished stays finished: the same command again goes on where it stopped. Ctrl-C leaves a checkpoint of the run at hand.
"""

from __future__ import annotations

import argparse
import datetime
import sys
from collections.abc import Sequence
from pathlib import Path

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from cluster.errors import ExitCode, RunFailure, UserError
from cluster.logs import console, wide_console
from cluster.metrics import read_jsonl
from learner.main import resolve
from learner.studies.arms import StudyRun, execute, study_runs
from learner.studies.catalogue import QUICK_SEEDS, SEEDS, STUDIES, Study
from learner.studies.tables import markdown, plot_curves, plot_frontier, study_rows, terminal_table


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m learner.studies", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("study", choices=sorted(STUDIES))
    parser.add_argument("--quick", action="store_true", help="one seed at a size that shows the whole in minutes")
    parser.add_argument("--seeds", type=int, nargs="+", help=f"training seeds; {SEEDS} unless --quick")
    parser.add_argument("--out", type=Path, default=Path("runs/studies"), help="where runs and tables go")
    options = parser.parse_args(arguments)
    study = STUDIES[options.study]
    seeds = options.seeds or (QUICK_SEEDS if options.quick else SEEDS)
    out = options.out / (f"{study.name}_quick" if options.quick else study.name)
    settings = (*study.settings, *(study.quick if options.quick else ()))
    runs = study_runs(study.arms, preset=study.preset, settings=settings, seeds=seeds, out=out)
    try:
        _check(runs)
        _run_all(runs)
    except UserError as error:
        sys.stderr.write(f"error: {error}\n")
        return ExitCode.USER_ERROR
    except RunFailure as error:
        sys.stderr.write(f"error: {error}\n")
        return ExitCode.CRASH
    except KeyboardInterrupt:
        sys.stderr.write("\nstopped; the same command goes on\n")
        return ExitCode.RESUMABLE
    command = " ".join(["python -m learner.studies", study.name, *(["--quick"] if options.quick else [])])
    _report(study, runs, out, command=command)
    return ExitCode.FINISHED


def _check(runs: Sequence[StudyRun]) -> None:
    """Every configuration is sound before the first hour is spent."""
    for run in runs:
        resolve(list(run.settings))


def _run_all(runs: Sequence[StudyRun]) -> None:
    with Progress(
        TextColumn("[bold]{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[now]}"),
        TimeElapsedColumn(),
        TextColumn("ETA"),
        TimeRemainingColumn(),
        console=console(),
        disable=not console().is_terminal,
    ) as progress:
        bar = progress.add_task("runs", total=len(runs), completed=sum(run.is_finished for run in runs), now="")
        for run in runs:
            if run.is_finished:
                continue
            what = f"{run.arm.name}, seed {run.seed}"
            if not console().is_terminal:
                console().print(f"run {what}")

            def show(run: StudyRun = run, what: str = what) -> None:
                progress.update(bar, now=f"{what}, update {_updates_done(run)}")

            execute(run, on_poll=show)
            progress.advance(bar)


def _updates_done(run: StudyRun) -> int:
    path = run.path / "metrics.jsonl"
    lines = read_jsonl(path) if path.exists() else []
    return int(lines[-1]["step"]) if lines else 0


def _report(study: Study, runs: Sequence[StudyRun], out: Path, *, command: str) -> None:
    rows = study_rows(study, runs)
    today = datetime.date.today().isoformat()
    (out / "table.md").write_text(markdown(study, rows, command=command, date=today))
    plot_frontier(study, runs, out / "frontier.png")
    if study.curves:
        plot_curves(study, runs, out / "curves.png")
    wide_console().print(terminal_table(study, rows))
    wide_console().print(f"written: {out}/ (table.md, frontier.png, curves.png)", soft_wrap=True)


if __name__ == "__main__":
    sys.exit(main())
