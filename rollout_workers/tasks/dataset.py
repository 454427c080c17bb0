"""Tasks whose examples are rows of a data set.

Every source is read once, on first use, and checked as a whole. Validation rows are those training rows whose problem
hashes into the validation bucket; where a data set has no test part, the test bucket of its training rows is held out the
same way. Training rows whose problem also stands in a test file are left out, so that the splits are disjoint whatever
files are given.
"""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import ClassVar

from cluster.errors import UserError
from cluster.logs import get_logger
from rollout_workers.config import TaskConfig
from rollout_workers.grading.answers import Grade
from rollout_workers.tasks.base import Example, Split, split_of
from rollout_workers.tasks.data import DataError, HubSource, Row, Rows, load_rows

logger = get_logger(__name__)

Columns = Mapping[str, type | tuple[type, ...]]


class DatasetTask(ABC):
    """The common part; a task adds its columns, its wording and its grade."""

    name: str
    family: ClassVar[str] = ""
    """Tasks of one family pose the same problems, and their splits are the same; "" is a family of its own."""
    settings: ClassVar[frozenset[str]] = frozenset({"train", "test", "revision", "prompt"})
    """Names in `TaskConfig` that this task reads; setting any other is refused."""
    prompts: ClassVar[tuple[str, ...]] = ("default",)
    """Named wordings; the first is the default."""
    train_hub: ClassVar[HubSource | None] = None
    test_hub: ClassVar[HubSource | None] = None
    columns: ClassVar[Columns]
    needed: ClassVar[str] = ""
    """The columns in words; "" are the names in `columns`."""
    canvas_length: int = 256
    num_graders: int = 1

    def __init__(self, config: TaskConfig) -> None:
        self.config = config
        self.prompt = config.prompt or self.prompts[0]
        if self.prompt not in self.prompts:
            raise UserError(
                f"config key '{self.config_key('prompt')}' is {self.prompt!r}; allowed: {', '.join(self.prompts)}"
            )
        self._sources: dict[str, Rows] = {}
        self._indices: dict[Split, list[int]] = {}
        self._held_out: frozenset[str] | None = None

    def prepare(self) -> None:  # noqa: B027
        """Nothing here; tasks that grade with the help of other processes check that these can be started."""

    def config_key(self, setting: str) -> str:
        """The dotted config key of one of this task's settings, for messages."""
        return f"task_settings.{self.name}.{setting}"

    def size(self, split: Split) -> int | None:
        return len(self._rows_of(split))

    def example(self, split: Split, index: int) -> Example:
        rows = self._rows_of(split)
        if not 0 <= index < len(rows):
            raise ValueError(f"example index of {self.name}/{split} must be in 0..{len(rows) - 1}, got {index}")
        source = self._source(split)
        return self.pose(f"{self.name}/{split}/{index}", source.rows[rows[index]])

    def demonstrations(self, row: Row, num: int) -> list[Row]:
        """`num` training rows for a few-shot prompt about `row`, the same for every row but for `row` itself."""
        if num == 0:
            return []
        source = self._source(Split.TRAIN)
        chosen = self._rows_of(Split.TRAIN)[: num + 1]
        others = [source.rows[i] for i in chosen if self.problem(source.rows[i]) != self.problem(row)]
        if len(others) < num:
            raise UserError(
                f"config key '{self.config_key('few_shot')}' is {num}; "
                f"allowed: at most {len(others)}, the training rows of {source.source}"
            )
        return others[:num]

    @abstractmethod
    def problem(self, row: Row) -> str:
        """What makes a row itself, without its answer: rows with the same problem fall into the same split."""

    @abstractmethod
    def check_row(self, row: Row) -> None:
        """Raises ValueError, saying which key is wrong and how, for a row that has all columns and still cannot be graded."""

    def leaves_out(self, row: Row) -> str | None:
        """Why a sound row is no problem of this task; None for one that is."""
        return None

    @abstractmethod
    def pose(self, example_id: str, row: Row) -> Example:
        """The example of one row."""

    @abstractmethod
    def grade(self, example: Example, text: str) -> Grade: ...

    @abstractmethod
    def canonical(self, example: Example) -> str | None: ...

    @abstractmethod
    def perturbed(self, example: Example) -> str | None: ...

    def file(self, part: str) -> str | None:
        """The file that the user gave for `part`: train or test."""
        return self.config.test if part == "test" else self.config.train

    def belongs(self, row: Row, split: Split) -> bool:
        """Whether a row of the source of `split` belongs to that split."""
        if self._part(split) == "test":
            return True
        bucket = split_of(f"{self.family or self.name} {self.problem(row)}")
        if bucket is Split.TEST and self._has_test_part:
            bucket = Split.TRAIN
        return bucket is split and self.problem(row) not in self.held_out()

    def held_out(self) -> frozenset[str]:
        """The problems of the user's test file; a published test part is taken to be disjoint from its training part."""
        if self._held_out is None:
            rows = () if self.config.test is None else self._source(Split.TEST).rows
            self._held_out = frozenset(self.problem(row) for row in rows)
        return self._held_out

    @property
    def _has_test_part(self) -> bool:
        return self.file("test") is not None or self.test_hub is not None

    def _part(self, split: Split) -> str:
        return "test" if split is Split.TEST and self._has_test_part else "train"

    def _source(self, split: Split) -> Rows:
        part = self._part(split)
        if part == "train" and "train" not in self.settings:
            raise UserError(
                f"config key 'task' is {self.name!r}, which has only a test part and no {split} examples; "
                "allowed there: evaluation alone, or a task with training rows"
            )
        if part not in self._sources:
            self._sources[part] = self._load(part)
        return self._sources[part]

    def _load(self, part: str) -> Rows:
        hub = self.test_hub if part == "test" else self.train_hub
        main = self.train_hub or self.test_hub
        # One revision names a commit of one repository: the training part's, where the test part has another.
        is_main = hub is not None and main is not None and hub.repository == main.repository
        needed = self.needed or ", ".join(self.columns)
        rows = load_rows(
            self.file(part),
            hub,
            revision=self.config.revision if is_main else None,
            key=self.config_key(part),
            columns=needed,
        ).check(self.columns, needed=needed)
        return Rows(rows.source, self._usable(rows, is_published=self.file(part) is None))

    def _usable(self, rows: Rows, *, is_published: bool) -> list[Row]:
        """The rows that can be posed. One that is malformed is an error in a file; nobody can mend a published data set."""
        kept, left_out, malformed = [], Counter[str](), []
        for index, row in enumerate(rows.rows):
            try:
                self.check_row(row)
            except ValueError as error:
                malformed.append(rows.error(index, str(error)))
                if not is_published:
                    raise malformed[0] from error
                continue
            reason = self.leaves_out(row)
            if reason is None:
                kept.append(row)
            else:
                left_out[reason] += 1
        num = len(rows.rows)
        if malformed:
            logger.warning(
                "%d of %d rows cannot be used and are left out; the first: %s", len(malformed), num, malformed[0]
            )
        for reason, count in left_out.items():
            logger.info("%s: %d of %d rows are left out: %s", rows.source, count, num, reason)
        if not kept:
            reasons = [*left_out, *(["malformed"] if malformed else [])]
            raise DataError(f"{rows.source}: all {num} rows are left out: {', '.join(reasons)}")
        return kept

    def _rows_of(self, split: Split) -> list[int]:
        """Indices into the source's rows that belong to `split`."""
        if split not in self._indices:
            source, part = self._source(split), self._part(split)
            splits = [each for each in Split if self._part(each) == part]
            indices = {each: [i for i, row in enumerate(source.rows) if self.belongs(row, each)] for each in splits}
            self._fill_empty(source.rows, indices)
            self._indices |= indices
        if not self._indices[split]:
            source = self._source(split)
            raise DataError(f"{source.source}: {len(source.rows)} rows leave none for the {split} split")
        return self._indices[split]

    def _fill_empty(self, rows: Sequence[Row], indices: dict[Split, list[int]]) -> None:
        """Of a small file whose hashes leave a split empty, that split gets one training problem: the one that hashes lowest."""
        for split, mine in indices.items():
            if mine:
                continue
            problems = {self.problem(rows[i]) for i in indices.get(Split.TRAIN, ())}
            if len(problems) < 2:
                continue
            lowest = min(problems, key=lambda problem: hashlib.blake2b(f"{split} {problem}".encode()).digest())
            mine.extend(i for i in indices[Split.TRAIN] if self.problem(rows[i]) == lowest)
            indices[Split.TRAIN] = [i for i in indices[Split.TRAIN] if i not in mine]
