"""Tasks whose puzzles come from a file, or are made up without end where no file is given.

Without `train`, training and validation puzzles are made up; without `test`, test puzzles come from the file of training rows, and
are made up where there is none either. A made-up puzzle never stands in the user's test file.
"""

from __future__ import annotations

import random
from abc import abstractmethod

from rollout_workers.tasks.base import Example, Split, example_random
from rollout_workers.tasks.data import Row
from rollout_workers.tasks.dataset import DatasetTask


class PuzzleTask(DatasetTask):
    """The common part; a puzzle adds its generator."""

    settings = frozenset({"train", "test"})
    prompts = ("plain",)

    @abstractmethod
    def draw(self, rng: random.Random, split: Split) -> Row:
        """A row with this task's columns, of a puzzle that belongs to `split`."""

    def size(self, split: Split) -> int | None:
        return None if self._is_made_up(split) else super().size(split)

    def example(self, split: Split, index: int) -> Example:
        if not self._is_made_up(split):
            return super().example(split, index)
        rng = example_random(self.family, split, index)
        row = self.draw(rng, split)
        while self.problem(row) in self.held_out():
            row = self.draw(rng, split)
        return self.pose(f"{self.name}/{split}/{index}", row)

    def _is_made_up(self, split: Split) -> bool:
        return self.file(self._part(split)) is None
