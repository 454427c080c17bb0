"""Trajectories as Parquet files: one file an update, one row a rollout, readable by any tool that reads Parquet.

A row's decisions are lists in its own columns: with T passes, L positions, K confidences per position and hidden size D,
`confidences` holds T * L * K numbers, `flags` and `rank` T * L, `time` and `log_prob` T, `hidden` T * L * D. L, K, D and the schema
versions are in the file's metadata. What `read_trajectories` gives back equals what the learner was given, bit for bit.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from cluster.errors import UserError
from cluster.storage import atomic_write, make_directory, unwritable_is_user_error
from policy.trajectory import SCHEMA as TRAJECTORY_SCHEMA
from policy.trajectory import PackedSteps, TrajectoryBatch, TrajectoryRow
from rollout_workers.lease import LeaseSummary

SCHEMA = 1
_SCHEMA_KEY, _RECORD_KEY, _SIZES_KEY = b"schema", b"trajectory_schema", b"positions,confidences,hidden"
_STEP_COLUMNS = {
    "confidences": ("confidences_NLK", np.float32),
    "flags": ("flags_NL", np.uint8),
    "time": ("time_N", np.float32),
    "log_prob": ("log_prob_N", np.float32),
    "rank": ("rank_NL", np.int16),
    "hidden": ("hidden_NLD", np.float16),
}
_ROW_COLUMNS = (
    "example_id", "group", "sample", "weight_version", "status", "nfe", "num_near_ties", "is_expert",
)  # fmt: skip


def archive_file(folder: Path, step: int) -> Path:
    """Where the trajectories that update `step` learned from are kept."""
    return folder / f"step-{step:06d}.parquet"


def archive_update(
    folder: Path, step: int, parts: Sequence[TrajectoryBatch], summaries: Sequence[LeaseSummary]
) -> None:
    """Keeps what update `step` learned from, with what became of it; `parts` and `summaries` are of the same leases, in order."""
    extra: dict[str, Sequence[Any]] = {
        "update": [step for part in parts for _ in part.rows],
        "reward": [reward for summary in summaries for reward in summary.rewards],
        "grade": [str(grade.kind) for summary in summaries for grade in summary.grades],
        "text": [text for summary in summaries for text in summary.texts],
    }
    write_trajectories(archive_file(folder, step), TrajectoryBatch.concatenate(parts), extra=extra)


def write_trajectories(path: Path, batch: TrajectoryBatch, *, extra: Mapping[str, Sequence[Any]]) -> None:
    """Writes one file at once; `extra` has further columns, one value a row (rewards, grades), which are not read back."""
    steps, offsets = batch.steps, batch.offsets
    columns: dict[str, Any] = {name: [getattr(row, name) for row in batch.rows] for name in _ROW_COLUMNS}
    one_each = np.arange(len(batch.rows) + 1)
    columns["tokens"] = _lists(np.stack([row.tokens_L for row in batch.rows]), one_each)
    columns["order"] = _lists(np.stack([row.order_L for row in batch.rows]), one_each)
    for name, (field, _) in _STEP_COLUMNS.items():
        values = getattr(steps, field)
        if values is not None:
            columns[name] = _lists(values, offsets)
    hidden_size = 0 if steps.hidden_NLD is None else steps.hidden_NLD.shape[2]
    sizes = (steps.flags_NL.shape[1], steps.confidences_NLK.shape[2], hidden_size)
    metadata = {
        _SCHEMA_KEY: str(SCHEMA),
        _RECORD_KEY: str(batch.schema),
        _SIZES_KEY: ",".join(map(str, sizes)),
    }
    table = pa.table({**columns, **extra}).replace_schema_metadata(metadata)
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, compression="zstd")
    with unwritable_is_user_error(path):
        make_directory(path.parent)
        atomic_write(path, sink.getvalue().to_pybytes())


def read_trajectories(path: Path) -> TrajectoryBatch:
    """The trajectories of one file; a UserError for what is no such file, or of another schema."""
    try:
        table = pq.read_table(path)
    except (pa.ArrowInvalid, OSError) as error:
        raise UserError(
            f"cannot read trajectories '{path}': {error}; allowed: a Parquet file of this project"
        ) from error
    metadata = table.schema.metadata or {}
    found = (metadata.get(_SCHEMA_KEY), metadata.get(_RECORD_KEY))
    if found != (b"%d" % SCHEMA, b"%d" % TRAJECTORY_SCHEMA):
        schemas = ", ".join("none" if each is None else each.decode() for each in found)
        raise UserError(
            f"trajectories '{path}' have the schemas {schemas} of file and record; allowed: {SCHEMA}, {TRAJECTORY_SCHEMA}"
        )
    num_positions, num_confidences, hidden_size = map(int, metadata[_SIZES_KEY].split(b","))
    offsets = np.concatenate([[0], np.cumsum(table["time"].combine_chunks().value_lengths())]).astype(np.int64)
    shapes = {"confidences": (num_positions, num_confidences), "time": (), "log_prob": (),
              "hidden": (num_positions, hidden_size)}  # fmt: skip
    steps: list[Any] = [
        _values(table, name, dtype).reshape(offsets[-1], *shapes.get(name, (num_positions,)))
        if name in table.column_names
        else None
        for name, (_, dtype) in _STEP_COLUMNS.items()
    ]
    return TrajectoryBatch(_rows(table, num_positions), PackedSteps(*steps), offsets)


def _rows(table: pa.Table, num_positions: int) -> tuple[TrajectoryRow, ...]:
    tokens = _values(table, "tokens", np.int32).reshape(-1, num_positions)
    order = _values(table, "order", np.int16).reshape(-1, num_positions)
    plain = table.select(list(_ROW_COLUMNS)).to_pylist()
    return tuple(TrajectoryRow(**row, tokens_L=tokens[index], order_L=order[index]) for index, row in enumerate(plain))


def _lists(values: NDArray[Any], offsets: NDArray[np.int64]) -> pa.LargeListArray:
    """Row r is the flattened ``values[offsets[r]:offsets[r + 1]]``."""
    width = int(np.prod(values.shape[1:], dtype=np.int64))
    return pa.LargeListArray.from_arrays(pa.array(offsets * width), pa.array(np.ascontiguousarray(values).reshape(-1)))


def _values(table: pa.Table, name: str, dtype: Any) -> NDArray[Any]:
    """All elements of a column of lists; a copy, because Arrow's own memory may not be written."""
    return np.array(table[name].combine_chunks().flatten().to_numpy(zero_copy_only=False), dtype)
