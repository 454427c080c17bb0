"""Held-out figures of the tiny dLLM: `python -m rollout_workers.models.tiny.figures [--sudoku-csv FILE]`.

They answer two questions: does the model know its tasks (one token per pass in the best order), and is there anything for a
policy to learn (what parallel decoding costs, and how many passes the best threshold needs)?
"""

from __future__ import annotations

import argparse
import csv
import re
import sys
from collections.abc import Sequence as Many
from dataclasses import dataclass
from pathlib import Path

from cluster.errors import ExitCode, UserError
from policy.factory import make_heuristic
from rollout_workers.engine import Engine
from rollout_workers.grader import grade_text
from rollout_workers.models.base import FrozenDLLM, ModelError
from rollout_workers.models.load import load_model, load_tokenizer
from rollout_workers.rollout import pose_each
from rollout_workers.tasks import Example, Split, Task, make_task
from rollout_workers.tasks.sudoku import Sudoku
from rollout_workers.tokenizer import DllmTokenizer

THRESHOLDS = (0.15, 0.2, 0.25, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99)
WANTED_ACCURACY = 0.9


@dataclass(frozen=True, slots=True)
class Figure:
    """Accuracy and mean NFE of one sampler on one task."""

    name: str
    accuracy: float
    nfe: float

    def __str__(self) -> str:
        return f"{self.name:58s} accuracy {self.accuracy:6.1%}   NFE {self.nfe:6.2f}"


class Examiner:
    """Decodes examples with one model."""

    def __init__(self, model: FrozenDLLM, tokenizer: DllmTokenizer) -> None:
        self._model = model
        self._tokenizer = tokenizer

    def measure(
        self, task: Task, examples: Many[Example], heuristic: str, value: float, *, block_length: int | None = None
    ) -> Figure:
        """The figure of one heuristic; `block_length` None is full diffusion."""
        block = block_length or task.canvas_length
        rows = pose_each(examples, self._tokenizer, canvas_length=task.canvas_length, block_length=block)
        Engine(self._model, make_heuristic(heuristic, value)).decode(rows)
        texts = [self._tokenizer.decode_canvas(row.tokens_L.tolist()) for row in rows]
        grades = [grade_text(task, example, text) for example, text in zip(examples, texts, strict=True)]
        name = f"{task.name}: {heuristic} {value:g}, block {block} of {task.canvas_length}"
        accuracy = sum(grade.is_correct for grade in grades) / len(grades)
        return Figure(name, accuracy, sum(row.nfe for row in rows) / len(rows))


def held_out(task: Task, num: int) -> list[Example]:
    """The first `num` test examples."""
    return [task.example(Split.TEST, index) for index in range(num)]


def report(examiner: Examiner, *, num_examples: int, sudoku_csv: Path | None) -> None:
    """Prints all figures."""
    write = sys.stdout.write
    arithmetic = make_task("arithmetic")
    examples = held_out(arithmetic, num_examples)
    one = [examiner.measure(arithmetic, examples, "low_confidence", 1, block_length=block) for block in (48, 16, 8)]
    four = examiner.measure(arithmetic, examples, "low_confidence", 4)
    for figure in (*one, examiner.measure(arithmetic, examples, "low_confidence", 2), four):
        write(f"{figure}\n")
    best = max(figure.accuracy for figure in one)
    write(f"-> best order at one token per pass {best:.1%}; ")
    write(f"four per pass in full diffusion lose {100 * (best - four.accuracy):.1f} points\n")
    sweep = [
        examiner.measure(arithmetic, examples, "threshold", tau, block_length=block)
        for block in (48, 16, 8)
        for tau in THRESHOLDS
    ]
    for figure in sweep:
        write(f"{figure}\n")
    good = [figure for figure in (*one, four, *sweep) if figure.accuracy >= WANTED_ACCURACY]
    if good:
        write(f"-> fewest passes of a heuristic at {WANTED_ACCURACY:.0%} or more: {min(good, key=lambda f: f.nfe)}\n")
    for infill in (False, True):
        puzzles = Sudoku(infill=infill)
        write(f"{examiner.measure(puzzles, held_out(puzzles, num_examples), 'low_confidence', 1)}\n")
        if sudoku_csv is not None:
            others = [puzzles.pose(f"csv/{i}", *each) for i, each in enumerate(read_puzzles(sudoku_csv))]
            figure = examiner.measure(puzzles, others, "low_confidence", 1)
            write(f"{figure}   ({len(others)} puzzles of {sudoku_csv.name})\n")


def read_puzzles(path: Path) -> list[tuple[str, str]]:
    """(puzzle, solution) of each line; a UserError for a file that has no such columns or cannot be read."""
    try:
        with path.open(newline="") as file:
            found = [(row["Puzzle"], row["Solution"]) for row in csv.DictReader(file)]
    except (OSError, KeyError, ValueError) as error:
        raise UserError(
            f"--sudoku-csv '{path}' cannot be read ({type(error).__name__}: {error}); allowed: a CSV file with columns "
            "Puzzle and Solution"
        ) from error
    for number, texts in enumerate(found, start=2):
        for text in texts:
            if text is None or not re.fullmatch(r"[0-4]{16}", text):
                raise UserError(f"--sudoku-csv '{path}', line {number}: {text!r}; allowed: 16 digits from 0 to 4")
    return found


def main(words: Many[str] | None = None) -> int:
    """Runs the command; returns its exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="tiny")
    parser.add_argument("--num-examples", type=int, default=500)
    parser.add_argument(
        "--sudoku-csv", type=Path, default=None, help="puzzles with columns Puzzle (0 = empty) and Solution"
    )
    options = parser.parse_args(words)
    try:
        if options.num_examples < 1:
            raise UserError(f"--num-examples is {options.num_examples}; allowed: at least 1")
        if options.sudoku_csv is not None:
            read_puzzles(options.sudoku_csv)
        examiner = Examiner(load_model(options.model), load_tokenizer(options.model))
    except (UserError, ModelError) as error:
        sys.stderr.write(f"error: {error}\n")
        return ExitCode.USER_ERROR
    report(examiner, num_examples=options.num_examples, sudoku_csv=options.sudoku_csv)
    return ExitCode.FINISHED


if __name__ == "__main__":
    sys.exit(main())
