"""Does a task grade its own answers right? `python -m evaluation.check_task NAME [--train FILE] [--test FILE]`.

Every example's canonical text must be graded correct and a perturbed one must not. Exceptions are named, and make the exit code 1.
"""

from __future__ import annotations

import argparse
import functools
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from cluster.config import build
from cluster.errors import ExitCode, UserError
from cluster.logs import console, setup_logging, wide_console
from rollout_workers.config import TaskConfig
from rollout_workers.grader import grade_text
from rollout_workers.grading.answers import Grade
from rollout_workers.tasks import TASK_NAMES, Example, Split, Task, make_task

ENDLESS_LIMIT = 200
"""Examples of a task that makes them up, unless the user says otherwise."""


@dataclass(frozen=True, slots=True)
class Check:
    """The verdicts on one example; None where there was no text to grade."""

    example_id: str
    canonical: Grade | None
    perturbed: Grade | None

    def exceptions(self) -> list[str]:
        """What is not as it should be, one line each."""
        found = []
        if self.canonical is None:
            found.append(f"{self.example_id}: no canonical answer")
        elif not self.canonical.is_correct:
            found.append(_describe(self.example_id, "canonical", self.canonical))
        if self.perturbed is None:
            found.append(f"{self.example_id}: no perturbed answer")
        elif self.perturbed.is_correct or not self.perturbed.is_valid:
            found.append(_describe(self.example_id, "perturbed", self.perturbed))
        return found


def check_example(task: Task, example: Example) -> Check:
    """Grades both texts of one example."""
    texts = (task.canonical(example), task.perturbed(example))
    grades = [None if text is None else grade_text(task, example, text) for text in texts]
    return Check(example.id, *grades)


def check_examples(
    task: Task, examples: Sequence[Example], *, on_check: Callable[[Check], None] = lambda check: None
) -> list[Check]:
    """All `examples`, in order, `task.num_graders` at a time; `on_check` is called with each as it is done."""
    checks = []
    with ThreadPoolExecutor(task.num_graders) as pool:
        for check in pool.map(functools.partial(check_example, task), examples):
            checks.append(check)
            on_check(check)
    return checks


def table_of(name: str, split: Split, checks: Sequence[Check], seconds: float) -> Table:
    """One line for the canonical texts and one for the perturbed ones."""
    num_graded = sum(grade is not None for check in checks for grade in (check.canonical, check.perturbed))
    table = Table(
        title=f"{name}, {split}: {len(checks)} examples, {num_graded / max(seconds, 1e-9):.1f} checks per second",
        title_justify="left",
    )
    for column in ("text", "examples", "correct", "share", "wanted", "verdicts"):
        table.add_column(column, justify="left" if column in ("text", "verdicts") else "right")
    rows = (
        ("canonical", [check.canonical for check in checks], "100%"),
        ("perturbed", [check.perturbed for check in checks], "0%"),
    )
    for text, grades, wanted in rows:
        kinds = Counter("none" if grade is None else str(grade.kind) for grade in grades)
        correct = sum(grade is not None and grade.is_correct for grade in grades)
        verdicts = ", ".join(f"{kind} {count}" for kind, count in kinds.most_common())
        share = f"{correct / len(grades):.2%}" if grades else ""
        table.add_row(text, str(len(grades)), str(correct), share, wanted, verdicts)
    return table


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit code."""
    parser = argparse.ArgumentParser(prog="python -m evaluation.check_task", description=__doc__)
    parser.add_argument("name", metavar="NAME", help=", ".join(TASK_NAMES))
    parser.add_argument("--train", default=None, metavar="FILE", help="training rows; default: the published data set")
    parser.add_argument("--test", default=None, metavar="FILE", help="test rows; default: the published data set")
    parser.add_argument("--split", default=Split.TEST, choices=[str(split) for split in Split])
    parser.add_argument("--limit", type=_count, default=None, metavar="N", help="only the first N examples")
    parser.add_argument("--prompt", default=None, metavar="NAME", help="named wording; default: the task's first")
    parser.add_argument("--sandbox", default=TaskConfig.sandbox, choices=["namespaces", "process"])
    parser.add_argument(
        "--grade-deadline",
        dest="grade_deadline_s",
        type=float,
        default=TaskConfig.grade_deadline_s,
        metavar="S",
        help="seconds for one answer",
    )
    options = parser.parse_args(arguments)
    setup_logging()
    try:
        checks = _run(options)
    except UserError as error:
        sys.stderr.write(f"error: {error}\n")
        return ExitCode.USER_ERROR
    return ExitCode.CRASH if any(check.exceptions() for check in checks) else ExitCode.FINISHED


def _run(options: argparse.Namespace) -> list[Check]:
    names = ("train", "test", "prompt", "sandbox", "grade_deadline_s")
    settings = {name: getattr(options, name) for name in names}
    config = build(TaskConfig, settings, where=f"task_settings.{options.name}")
    task, split = make_task(options.name, config), Split(options.split)
    task.prepare()
    size = task.size(split)
    num = options.limit or ENDLESS_LIMIT if size is None else min(size, options.limit or size)
    examples = [task.example(split, index) for index in range(num)]
    start = time.monotonic()
    with Progress(
        TextColumn("[bold]{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[exceptions]} exceptions"),
        TextColumn("ETA"),
        TimeRemainingColumn(),
        console=console(),
        disable=not console().is_terminal,
    ) as progress:
        bar = progress.add_task(f"{options.name} {split}", total=num, exceptions=0)
        num_exceptions = 0

        def show(check: Check) -> None:
            nonlocal num_exceptions
            num_exceptions += len(check.exceptions())
            progress.update(bar, advance=1, exceptions=num_exceptions)

        checks = check_examples(task, examples, on_check=show)
    out = wide_console()
    for check in checks:
        for line in check.exceptions():
            out.print(line, style="red", markup=False, highlight=False, soft_wrap=True)
    out.print(table_of(options.name, split, checks, time.monotonic() - start))
    return checks


def _describe(example_id: str, text: str, grade: Grade) -> str:
    detail = " ".join(grade.detail.split())
    answer = " ".join(grade.answer.split())
    return f"{example_id}: the {text} text is {grade.kind}: {detail or repr(answer[:100])}"


def _count(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text!r}: allowed: an integer >= 1")
    return value


if __name__ == "__main__":
    sys.exit(main())
