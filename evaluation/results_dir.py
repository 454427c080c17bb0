"""Where one evaluation lies: a folder or an `s3://` prefix that belongs to one set of settings; no kill loses anything.

Records arrive in shards, each written whole under a name made of its contents' keys; what is there is never written again. A shard
is there or it is not, so going on after any kill means decoding the examples that no shard has. Arms, seeds and examples may be
added to an evaluation later; other settings are refused.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

from cluster.config import first_difference
from cluster.errors import UserError
from cluster.storage import Storage, StorageConfig, open_storage
from evaluation.records import ExampleRecord, from_lines, sort_records, to_lines

SETTINGS_FILE = "settings.json"
_SHARDS, _TRACES = "shards/", "traces/"


class ResultsDir:
    """The files of one evaluation at `uri`."""

    def __init__(self, uri: str, storage: StorageConfig | None = None) -> None:
        """`storage` says how an object store is reached."""
        self.uri = uri.rstrip("/")
        self._storage: Storage = open_storage(self.uri, storage)

    def settings(self) -> dict[str, Any] | None:
        """What the evaluation here was started with; None where there is none."""
        if not self._storage.exists(SETTINGS_FILE):
            return None
        settings: dict[str, Any] = self.read_json(SETTINGS_FILE)
        return settings

    def claim(self, settings: Mapping[str, Any]) -> None:
        """Makes this the place of `settings`; a UserError, with nothing changed, where it is another evaluation's."""
        plain = json.loads(json.dumps(settings))
        held = self.settings()
        if held is not None:
            difference = first_difference(held, plain)
            if difference is not None:
                raise UserError(
                    f"results directory '{self.uri}' holds an evaluation with other settings: {difference} (there -> now); "
                    "nothing was changed; allowed: the same settings, or another --save-path"
                )
            return
        if others := self._storage.list(""):
            raise UserError(
                f"results directory '{self.uri}' is not empty and holds no evaluation (it has {others[0]!r}); "
                "nothing was changed; allowed: a new or empty directory"
            )
        self._storage.write(SETTINGS_FILE, _json(plain))

    def records(self) -> list[ExampleRecord]:
        """Every record once, in the order of `sort_records`."""
        found: dict[Any, ExampleRecord] = {}
        for key in self._storage.list(_SHARDS):
            for record in from_lines(self._storage.read(key), where=f"{self.uri}/{key}"):
                found.setdefault(record.key, record)
        return sort_records(list(found.values()))

    def append(self, records: Sequence[ExampleRecord], traces: Sequence[Mapping[str, Any]] = ()) -> None:
        """Adds one shard, its traces first: examples whose records are there are not decoded again."""
        digest = hashlib.sha256(repr([record.key for record in records]).encode()).hexdigest()[:24]
        if traces:
            self._storage.write(f"{_TRACES}{digest}.json", json.dumps(list(traces)).encode())
        self._storage.write(f"{_SHARDS}{digest}.jsonl", to_lines(records))

    def traces(self) -> list[dict[str, Any]]:
        """Rows recorded pass by pass (`evaluation.traces`)."""
        return [trace for key in self._storage.list(_TRACES) for trace in self.read_json(key)]

    def read(self, name: str) -> bytes:
        """One file; raises FileNotFoundError."""
        return self._storage.read(name)

    def read_json(self, name: str) -> Any:
        """One JSON file; UserError for one that is damaged."""
        try:
            return json.loads(self.read(name))
        except ValueError as error:
            raise UserError(
                f"'{self.uri}/{name}' is damaged: {error}; allowed: a file as an evaluation wrote it, or another directory"
            ) from error

    def exists(self, name: str) -> bool:
        """Whether there is such a file."""
        return self._storage.exists(name)

    def write(self, name: str, data: bytes) -> None:
        """Sets one file, all at once."""
        self._storage.write(name, data)

    def write_json(self, name: str, value: Any) -> None:
        """Sets one file to a JSON document."""
        self.write(name, _json(value))


def _json(value: Any) -> bytes:
    return json.dumps(value, indent=1).encode()
