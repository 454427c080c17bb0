"""The problems of one run: its tasks, which examples each phase uses, and which prompts are too long to pose.

Everything that a data set can be wrong about is found here, before an actor starts: a missing file, a malformed row, a long prompt.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Literal

from cluster.errors import UserError
from cluster.logs import get_logger
from rollout_workers.tasks import Split, Task
from rollout_workers.tasks.stream import Pick, TaskStream
from rollout_workers.tokenizer import DllmTokenizer

logger = get_logger(__name__)

LongPrompts = Literal["error", "skip"]


@dataclass(frozen=True, slots=True)
class PromptLimit:
    """How long a prompt may be, in tokens, and what happens to a longer one; a prompt is never cut."""

    tokenizer: DllmTokenizer
    max_tokens: int | None
    """None: no limit."""
    long_prompts: LongPrompts


@dataclass(frozen=True, slots=True)
class Problems:
    """What the phases of a run are about."""

    training: TaskStream
    validation: list[Pick]
    test: list[Pick]
    tasks: Mapping[str, Task]


@dataclass(slots=True)
class ProblemSet:
    """A weighted mixture of tasks with its splits."""

    tasks: Mapping[str, Task]
    weights: Mapping[str, float]
    seed: int
    limits: Mapping[str, PromptLimit]
    """Of each task's prompts, as the model that decodes it reads them."""
    _skipped: dict[tuple[str, Split], frozenset[int]] = field(default_factory=dict, init=False)

    def choose(self, *, num_validation: int, num_test: int) -> Problems:
        """The problems of every phase; reads all data, so whatever is wrong with it is raised here."""
        return Problems(self.training(), self.validation(num_validation), self.test(num_test), self.tasks)

    def training(self) -> TaskStream:
        """The training examples, without end."""
        return self._stream(Split.TRAIN)

    def validation(self, num: int) -> list[Pick]:
        """The first `num` validation examples of the mixture, each once: fewer where the tasks have no more."""
        stream = self._stream(Split.VALIDATION)
        sizes = [task.size(Split.VALIDATION) for task in self.tasks.values()]
        bounded = sum(size for size in sizes if size is not None)
        picks, _ = stream.draw({}, num if None in sizes else min(num, bounded))
        return list(dict.fromkeys(picks))

    def test(self, num: int) -> list[Pick]:
        """The first `num` test examples of every task: all of them where a task has fewer."""
        picks: list[Pick] = []
        for name, task in self.tasks.items():
            size = task.size(Split.TEST) if num else 0
            usable = (i for i in range(num if size is None else size) if i not in self._skip(name, Split.TEST))
            mine = [Pick(name, index) for index, _ in zip(usable, range(num), strict=False)]
            if len(mine) < num:
                logger.info("task %s has %d test examples; all are used (asked for: %d)", name, len(mine), num)
            picks.extend(mine)
        return picks

    def _stream(self, split: Split) -> TaskStream:
        skipped = {name: self._skip(name, split) for name in self.tasks}
        return TaskStream(self.tasks, self.weights, split, self.seed, skipped)

    def _skip(self, name: str, split: Split) -> frozenset[int]:
        """Examples of a bounded task whose prompts are too long; where that is an error, a UserError names the first."""
        if (name, split) not in self._skipped:
            size = self.tasks[name].size(split)
            found = frozenset(self._too_long(name, split, size)) if size is not None else frozenset()
            if found:
                logger.warning(
                    "%s/%s: %d of %d prompts are longer than %s tokens and are skipped",
                    name, split, len(found), size, self.limits[name].max_tokens,
                )  # fmt: skip
            self._skipped[name, split] = found
        return self._skipped[name, split]

    def _too_long(self, name: str, split: Split, size: int) -> Iterator[int]:
        limit = self.limits[name]
        if limit.max_tokens is None:
            return
        around = len(limit.tokenizer.render_prompt("").encode())
        for index in range(size):
            example = self.tasks[name].example(split, index)
            # No tokenizer makes more tokens than there are bytes, and most prompts are short enough by that alone.
            if around + len((example.prompt + example.prefill).encode()) <= limit.max_tokens:
                continue
            length = len(limit.tokenizer.encode_prompt(example.prompt, example.prefill))
            if length <= limit.max_tokens:
                continue
            if limit.long_prompts == "error":
                raise UserError(
                    f"the prompt of {example.id} has {length} tokens; allowed: {limit.max_tokens} "
                    "(decode.max_prompt_length, or what the model has positions for); decode.long_prompts=skip leaves it out"
                )
            yield index
