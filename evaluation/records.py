"""One record per decoded example, complete in itself: all settings, the grade, the text, and the order of unmasking.

A record's seconds are its equal share of its lease's decoding time (forward passes, policy, scheduling), so they add up to what the
actor spent; rows are decoded `num_slots` at a time.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from cluster.errors import UserError
from evaluation.arms import Arm

SCHEMA = 2


@dataclass(frozen=True, slots=True)
class ExampleRecord:
    """One decoded example of one arm under one seed."""

    sampler: str
    parameters: str
    """Canonical JSON, as `Arm` has it; a mapping in files."""
    block_length: int
    seed: int
    example_id: str
    grade: str
    score: float
    nfe: int
    reward: float
    status: str
    num_near_ties: int
    answer: str
    text: str
    prompt_hash: str = ""
    policy: str = ""
    """Of a learned policy: which one."""
    order: tuple[int, ...] = ()
    """The pass at which each canvas position was committed, from 1; 0 for given tokens, -1 for positions that stayed masked."""
    response_length: int = 0
    """Decoded tokens before the first end of text."""
    serial_passes: int = 0
    """Forward passes one after another: those that a sampler asks for in one batch, which NFE counts each, count once."""
    seconds: float = 0.0
    is_warm_up: bool = False
    """Whether it came from its actor's first lease, whose times are no measure of speed."""
    settings: Mapping[str, Any] = field(default_factory=dict)
    """Model, canvas, batch, temperature and all else that decided this record beside arm and seed."""

    @property
    def task(self) -> str:
        """The task that the example belongs to."""
        return self.example_id.partition("/")[0]

    @property
    def arm(self) -> Arm:
        """What decoded it; `is_random` is not known to a record and takes no part in comparisons."""
        return Arm(self.sampler, self.parameters, self.block_length, self.policy)

    @property
    def key(self) -> tuple[Arm, int, str]:
        """What no two records of one evaluation share."""
        return self.arm, self.seed, self.example_id

    @property
    def tokens_per_pass(self) -> tuple[int, ...]:
        """How many positions each pass committed, by the pass after which they stayed."""
        counts = [0] * self.nfe
        for number in self.order:
            if number > 0:
                counts[number - 1] += 1
        return tuple(counts)


def to_line(record: ExampleRecord) -> str:
    """One JSON line."""
    plain = asdict(record) | {"parameters": json.loads(record.parameters), "settings": dict(record.settings)}
    return json.dumps({"schema": SCHEMA, **plain, "tokens_per_pass": record.tokens_per_pass}) + "\n"


def from_line(line: str, *, where: str) -> ExampleRecord:
    """The record of a line; UserError for one of another version."""
    try:
        plain = dict(json.loads(line))
    except (ValueError, TypeError) as error:
        raise UserError(
            f"'{where}' is damaged: {error}; allowed: a file of records as an evaluation wrote it"
        ) from error
    schema = plain.pop("schema", None)
    if schema != SCHEMA:
        raise UserError(
            f"'{where}' has records of schema {schema!r}, this version reads {SCHEMA}; allowed: an evaluation of this version"
        )
    try:
        plain.pop("tokens_per_pass")
        plain["parameters"] = json.dumps(plain["parameters"], sort_keys=True)
        return ExampleRecord(**(plain | {"order": tuple(plain["order"])}))
    except (KeyError, TypeError) as error:
        raise UserError(f"'{where}' is damaged: a record without {error}; allowed: one of schema {SCHEMA}") from error


def to_lines(records: Sequence[ExampleRecord]) -> bytes:
    """JSON lines."""
    return "".join(map(to_line, records)).encode()


def from_lines(data: bytes, *, where: str) -> list[ExampleRecord]:
    """What `to_lines` wrote; equal settings become one shared mapping."""
    seen: dict[str, Mapping[str, Any]] = {}
    records = [from_line(line, where=where) for line in data.decode().splitlines()]
    return [
        dataclasses.replace(record, settings=seen.setdefault(json.dumps(record.settings), record.settings))
        for record in records
    ]


def read_records(path: Path) -> list[ExampleRecord]:
    """All records of a finished evaluation's `records.jsonl`."""
    return from_lines(path.read_bytes(), where=str(path))


def sort_records(records: Sequence[ExampleRecord]) -> list[ExampleRecord]:
    """In an order that does not depend on which actor was done first."""
    return sorted(records, key=lambda record: record.key)
