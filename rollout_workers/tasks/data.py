"""Rows of a data set: a local file, or a hub data set at a pinned revision. What is malformed is named by file, row and key.

Nothing is downloaded or read at import; a file is read once and checked as a whole, so a bad row is found before any work starts.
"""

from __future__ import annotations

import csv
import gzip
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cluster.errors import UserError

Row = Mapping[str, Any]

SUFFIXES = (".jsonl", ".jsonl.gz", ".parquet", ".csv")


class DataError(UserError):
    """Data that cannot be used; one line that names the file, and the row and key where there is one."""


@dataclass(frozen=True, slots=True)
class HubSource:
    """A published data set at one revision."""

    repository: str
    split: str
    config: str | None = None
    revision: str | None = None
    """Commit hash; None where the user has to name one."""


@dataclass(frozen=True, slots=True)
class Rows:
    """Checked rows, with a name for each."""

    source: str
    rows: Sequence[Row]

    def error(self, index: int, problem: str) -> DataError:
        """A complaint about row `index` (counted from 0 here and from 1 in the message, as editors do)."""
        return DataError(f"{self.source}, row {index + 1}: {problem}")

    def check(self, columns: Mapping[str, type | tuple[type, ...]], *, needed: str = "") -> Rows:
        """Refuses a row that lacks one of `columns` or holds something else there; `needed` describes them all."""
        needed = needed or ", ".join(columns)
        if not self.rows:
            raise DataError(f"{self.source} has no rows; needed: at least one, with {needed}")
        for index, row in enumerate(self.rows):
            for key, kind in columns.items():
                if key not in row:
                    raise self.error(index, f"key {key!r} is missing; needed: {needed}")
                if not isinstance(row[key], kind):
                    kinds = kind if isinstance(kind, tuple) else (kind,)
                    wanted = " or ".join(_NOUNS.get(each, each.__name__) for each in kinds)
                    raise self.error(index, f"key {key!r} is {short(row[key])}; needed: {wanted}")
        return self


_NOUNS = {str: "text", int: "an integer", list: "a list", dict: "an object"}


def short(value: object) -> str:
    """`value` as an error message quotes it."""
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def load_rows(
    local: str | None, hub: HubSource | None, *, revision: str | None, key: str, columns: str = "the same columns"
) -> Rows:
    """The rows of the file `local`, or of the hub data set where no file is given.

    `key` is the config key of the file and `columns` what it must have, for messages.
    """
    if local is not None:
        return read_file(Path(local), key=key)
    if hub is None:
        raise DataError(
            f"config key '{key}' is null; allowed: a file ({', '.join(SUFFIXES)}) with {columns}; there is no published one"
        )
    return _load_hub(hub, revision=revision, instead=f"config key '{key}' may name a file with {columns}")


def read_file(path: Path, *, key: str) -> Rows:
    """Reads JSON lines (plain or gzipped), Parquet or CSV with a head line."""
    readers: dict[str, Callable[[Path], list[Row]]] = {
        ".jsonl.gz": _read_jsonl,
        ".jsonl": _read_jsonl,
        ".parquet": _read_parquet,
        ".csv": _read_csv,
    }
    reader = next((reader for suffix, reader in readers.items() if path.name.endswith(suffix)), None)
    if reader is None:
        raise DataError(f"config key '{key}' is {str(path)!r}; allowed: a file that ends in {', '.join(SUFFIXES)}")
    if not path.is_file():
        raise DataError(f"config key '{key}': data file '{path}' does not exist; allowed: an existing file")
    try:
        return Rows(f"data file '{path}'", reader(path))
    except UnicodeDecodeError as error:
        raise DataError(f"data file '{path}' is not UTF-8 text (byte {error.start})") from error
    except (OSError, EOFError) as error:
        raise DataError(f"data file '{path}' cannot be read ({error})") from error


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    opener = gzip.open if path.suffix == ".gz" else open
    with opener(path, "rt", encoding="utf-8-sig") as file:
        yield from enumerate(file, start=1)


def _read_jsonl(path: Path) -> list[Row]:
    rows: list[Row] = []
    for number, line in _lines(path):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise DataError(
                f"data file '{path}', line {number}: not JSON ({error.msg} at column {error.colno})"
            ) from error
        except (ValueError, RecursionError) as error:
            raise DataError(f"data file '{path}', line {number}: cannot be read as JSON ({error})") from error
        if not isinstance(row, dict):
            raise DataError(f"data file '{path}', line {number}: holds {short(row)}; needed: an object")
        rows.append(row)
    return rows


def _read_parquet(path: Path) -> list[Row]:
    import pyarrow
    import pyarrow.parquet

    try:
        table = pyarrow.parquet.read_table(path)
    except pyarrow.ArrowException as error:
        raise DataError(f"data file '{path}' is not readable Parquet ({' '.join(str(error).split())})") from error
    rows: list[Row] = table.to_pylist()
    return rows


def _read_csv(path: Path) -> list[Row]:
    with path.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.DictReader(file)
        rows: list[Row] = []
        try:
            for number, row in enumerate(reader, start=1):
                if None in row or None in row.values():
                    raise DataError(f"data file '{path}', row {number}: needed: {len(reader.fieldnames or ())} columns")
                rows.append(row)
        except csv.Error as error:
            raise DataError(f"data file '{path}', row {len(rows) + 1}: not CSV ({error})") from error
        return rows


def _load_hub(hub: HubSource, *, revision: str | None, instead: str) -> Rows:
    """The data set from the hub or its cache; without either, the error says which file would do `instead`."""
    instead = f"{instead} ({', '.join(SUFFIXES)})"
    revision = revision or hub.revision
    name = hub.repository if hub.config is None else f"{hub.repository} ({hub.config})"
    if revision is None:
        raise DataError(f"data set {name} has no pinned revision here; set the task's 'revision', or: {instead}")
    import datasets
    from huggingface_hub.errors import HfHubHTTPError

    try:
        loaded = datasets.load_dataset(hub.repository, hub.config, split=hub.split, revision=revision)
    except (OSError, ValueError, HfHubHTTPError, datasets.exceptions.DatasetsError) as error:
        reason = " ".join(str(error).split())
        raise DataError(
            f"data set {name}, split {hub.split!r}, revision {revision} cannot be loaded ({type(error).__name__}: "
            f"{reason[:160]}); {instead}"
        ) from error
    return Rows(f"data set {name}, split {hub.split!r}", loaded.to_list())
