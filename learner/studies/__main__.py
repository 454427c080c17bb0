"""Runs a study arm by arm and prints its tables.

    python -m learner.studies NAME [--quick] [--seeds 0 1 2] [--out DIR] [--write-docs docs/studies.md]

What is finished stays finished: the same command again goes on where it stopped. Ctrl-C and SIGTERM leave a checkpoint of the run
at hand.
"""

from __future__ import annotations

import argparse
import datetime
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from cluster.errors import ExitCode, RunFailure, UserError
from cluster.logs import console, wide_console
from cluster.metrics import read_jsonl
from learner.main import resolve
from learner.studies.arms import StudyArm, StudyRun, execute, study_runs
from learner.studies.catalogue import QUICK_SEEDS, SEEDS, STUDIES, Study
from learner.studies.docs import section, write_docs
from learner.studies.figures import measure
from learner.studies.plots import plot_curves, plot_frontier
from learner.studies.tables import study_tables
from learner.studies.time_left import TimeLeft, in_words


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m learner.studies", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("study", choices=sorted(STUDIES))
    parser.add_argument("--quick", action="store_true", help="one seed at a size that shows the whole in minutes")
    parser.add_argument("--seeds", type=int, nargs="+", help=f"training seeds; {SEEDS} unless --quick")
    parser.add_argument("--out", type=Path, default=Path("runs/studies"), help="where runs and tables go")
    parser.add_argument("--write-docs", type=Path, metavar="FILE.md", help="put tables and plots into this file too")
    options = parser.parse_args(arguments)
    study = STUDIES[options.study]
    seeds = options.seeds or (QUICK_SEEDS if options.quick else SEEDS)
    out = options.out / (f"{study.name}_quick" if options.quick else study.name)
    settings = (*study.settings, *(study.quick if options.quick else ()))
    try:
        if options.quick and options.write_docs:
            raise UserError("--write-docs is given with --quick; allowed: the whole study, a quick one is no result")
        arms = _possible_arms(study, quick=options.quick)
        runs = study_runs(arms, preset=study.preset, settings=settings, seeds=seeds, out=out)
        # Every configuration is sound before the first hour is spent.
        num_updates = {run.path: resolve(list(run.settings)).learner.num_updates for run in runs}
        with _interrupted_by_signals():
            _run_all(runs, TimeLeft(runs, num_updates))
        given = [*(["--quick"] if options.quick else []), *_seeds_given(options.seeds)]
        _report(
            study,
            runs,
            out,
            command=" ".join(["python -m learner.studies", study.name, *given]),
            docs=options.write_docs,
        )
    except UserError as error:
        sys.stderr.write(f"error: {error}\n")
        return ExitCode.USER_ERROR
    except RunFailure as error:
        sys.stderr.write(f"error: {error}\n")
        return ExitCode.CRASH
    except KeyboardInterrupt:
        sys.stderr.write("\nstopped; the same command goes on\n")
        return ExitCode.RESUMABLE
    return ExitCode.FINISHED


@contextmanager
def _interrupted_by_signals() -> Iterator[None]:
    """Either signal interrupts, also where a shell started the command in the background and had it ignore SIGINT."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    for number in before:
        signal.signal(number, signal.default_int_handler)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _possible_arms(study: Study, *, quick: bool) -> list[StudyArm]:
    """All arms; without a dLLM that some need, a quick study leaves these out and a whole one is a UserError."""
    missing = [arm for arm in study.arms if arm.need is not None and not arm.need.path.exists()]
    for need in dict.fromkeys(arm.need for arm in missing if arm.need is not None):
        what = f"study {study.name!r} needs a dLLM at '{need.path}'; make it with: {need.command} ({need.cost})"
        if not quick:
            raise UserError(what)
        names = ", ".join(arm.name for arm in missing if arm.need == need)
        sys.stderr.write(f"{what}; left out until then: {names}\n")
    return [arm for arm in study.arms if arm not in missing]


def _seeds_given(seeds: Sequence[int] | None) -> list[str]:
    return ["--seeds", *map(str, seeds)] if seeds else []


def _run_all(runs: Sequence[StudyRun], time_left: TimeLeft) -> None:
    with Progress(
        TextColumn("[bold]{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[now]}"),
        TimeElapsedColumn(),
        TextColumn("{task.fields[left]}"),
        console=console(),
        disable=not console().is_terminal,
    ) as progress:
        num_done = sum(run.is_finished for run in runs)
        bar = progress.add_task("runs", total=len(runs), completed=num_done, now="", left="")
        for run in runs:
            if run.is_finished:
                continue
            what = f"{run.arm.name}, seed {run.seed}"
            if not console().is_terminal:
                left = in_words(time_left.seconds(run, elapsed=run.seconds))
                console().print(f"run {what} ({num_done} of {len(runs)} done, {left})", soft_wrap=True)

            def show(elapsed: float, run: StudyRun = run, what: str = what) -> None:
                done = _updates_done(run)
                left = time_left.seconds(run, elapsed=elapsed, updates_done=done)
                progress.update(bar, now=f"{what}, update {done}", left=in_words(left))

            execute(run, on_poll=show)
            num_done += 1
            progress.advance(bar)


def _updates_done(run: StudyRun) -> int:
    path = run.path / "metrics.jsonl"
    lines = read_jsonl(path) if path.exists() else []
    return int(lines[-1]["step"]) if lines else 0


def _report(study: Study, runs: Sequence[StudyRun], out: Path, *, command: str, docs: Path | None) -> None:
    measured = [measure(run, alpha=study.alpha) for run in runs]
    tables, today = study_tables(study, measured), datetime.date.today().isoformat()
    (out / "table.md").write_text(section(study, tables, command=command, date=today))
    plots = [out / "frontier.png", out / "curves.png"]
    plot_frontier(study, measured, plots[0])
    plot_curves(study, measured, plots[1])
    written = [out / "table.md", *plots]
    if docs is not None:
        written += write_docs(docs, study, tables, plots, command=command, date=today)
    for table in tables:
        wide_console().print(table.terminal())
    wide_console().print(f"written: {', '.join(map(str, written))}", soft_wrap=True)


if __name__ == "__main__":
    sys.exit(main())
