"""Weights as opaque bytes by version: what `fetch` returns has the checksum and fingerprint it was published with.

The bytes lie in Ray's object store, put there by whoever publishes: they live as long as that process, each node fetches them
once, from any node that has them, and its actors share the copy. The store's actor hands out references. It forgets everything
when its process dies; publishing the same record again is always allowed, so whoever holds the current weights makes a restarted
store whole by calling `publish` once more.
"""

from __future__ import annotations

import hashlib
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import ray
from ray.actor import ActorHandle
from ray.exceptions import ActorUnavailableError, GetTimeoutError, ObjectLostError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from cluster.errors import DeadlineExceeded, RunFailure
from cluster.logs import get_logger

_POLL_S = 0.05

logger = get_logger(__name__)


class WeightMismatch(RunFailure):
    """Weights that are not what they should be: another checksum, architecture or content for a version."""


class UnknownVersion(LookupError):
    """A version that is not held; the message lists those that are."""


@dataclass(frozen=True)
class WeightRecord:
    """One version of the weights; `fingerprint` names the architecture they fit."""

    version: int
    data: bytes
    checksum: str
    fingerprint: str

    @classmethod
    def make(cls, version: int, data: bytes, fingerprint: str) -> WeightRecord:
        """A record with the sha256 of `data` as its checksum."""
        return cls(version, data, hashlib.sha256(data).hexdigest(), fingerprint)

    def verify(self, *, fingerprint: str | None = None) -> None:
        """Raise WeightMismatch unless `data` has the checksum and, where given, `fingerprint` is the record's."""
        found = hashlib.sha256(self.data).hexdigest()
        if found != self.checksum:
            raise WeightMismatch(f"weights version {self.version}: checksum {found[:12]} is not {self.checksum[:12]}")
        if fingerprint is not None and fingerprint != self.fingerprint:
            raise WeightMismatch(
                f"weights version {self.version} are for architecture {self.fingerprint!r}, not for {fingerprint!r}"
            )


class WeightTable:
    """The last `keep` versions, which strictly increase."""

    def __init__(self, *, keep: int) -> None:
        if keep < 1:
            raise ValueError(f"keep is {keep}; at least one version stays")
        self._keep = keep
        self._records: dict[int, WeightRecord] = {}

    def publish(self, record: WeightRecord) -> None:
        """Add `record`; the same version again with the same content changes nothing. Raises WeightMismatch."""
        record.verify()
        held = self._records.get(record.version)
        if held is not None:
            if (held.checksum, held.fingerprint) != (record.checksum, record.fingerprint):
                raise WeightMismatch(f"weights version {record.version} were already published with other content")
            return
        latest = self.latest_version()
        if latest is not None and record.version < latest:
            raise WeightMismatch(f"weights version {record.version} are older than version {latest}; versions increase")
        self._records[record.version] = record
        for version in sorted(self._records)[: -self._keep]:
            del self._records[version]

    def get(self, version: int) -> WeightRecord:
        """The record of `version`; raises UnknownVersion."""
        if version not in self._records:
            raise UnknownVersion(_unknown(version, self.versions()))
        return self._records[version]

    def versions(self) -> list[int]:
        """All versions held, ascending."""
        return sorted(self._records)

    def latest_version(self) -> int | None:
        """The newest version; None before the first."""
        return max(self._records, default=None)


class _WeightStoreActor:
    """Serves a WeightTable; an absent version is an answer, because exceptions change their class on the way."""

    def __init__(self, keep: int) -> None:
        self._table = WeightTable(keep=keep)
        self._references: dict[int, Any] = {}

    def publish(self, references: list[Any]) -> str | None:
        record: WeightRecord = ray.get(references[0])
        try:
            self._table.publish(record)
        except WeightMismatch as error:
            return str(error)
        # What is published again replaces a reference whose owner may be gone.
        self._references[record.version] = references[0]
        self._references = {version: self._references[version] for version in self._table.versions()}
        return None

    def fetch(self, version: int) -> list[Any] | tuple[int, ...]:
        """A list with the reference of the record, or a tuple of the versions that there are."""
        if version in self._references:
            return [self._references[version]]
        return tuple(self._table.versions())

    def latest_version(self) -> int | None:
        return self._table.latest_version()


@dataclass(frozen=True)
class WeightStore:
    """A handle on the store's actor that any process of the Ray cluster may hold; it can be pickled."""

    actor: ActorHandle
    name: str

    def publish(self, record: WeightRecord, *, timeout_s: float) -> None:
        """Make `record` available to all; raises WeightMismatch or DeadlineExceeded."""
        what = f"publishing weights version {record.version} to {self.name}"
        # In a list, so that Ray passes the reference and not a copy of the bytes.
        refused = self._call("publish", [ray.put(record)], what=what, timeout_s=timeout_s)
        if refused is not None:
            raise WeightMismatch(f"{self.name}: {refused}")

    def fetch(self, version: int, *, fingerprint: str, timeout_s: float) -> WeightRecord:
        """The verified record of `version`, waited for until it is published.

        Raises UnknownVersion at once when newer versions have replaced it, WeightMismatch, or DeadlineExceeded.
        """
        deadline = time.monotonic() + timeout_s
        what = f"weights version {version} from {self.name}"
        while True:
            remaining = max(0.0, deadline - time.monotonic())
            answer = self._call("fetch", version, what=what, timeout_s=remaining, asked_s=timeout_s)
            if isinstance(answer, list):
                record = self._get(answer[0], what, deadline=deadline, asked_s=timeout_s)
                if record is not None:
                    record.verify(fingerprint=fingerprint)
                    return record
                answer = ()
            if answer and version <= answer[-1]:
                raise UnknownVersion(f"{self.name}: {_unknown(version, answer)}")
            if time.monotonic() + _POLL_S > deadline:
                held = f"version {version} (held: {_listed(answer)})"
                raise DeadlineExceeded.waiting_for(what, seconds=timeout_s, missing=held)
            time.sleep(_POLL_S)

    @staticmethod
    def _get(reference: Any, what: str, *, deadline: float, asked_s: float) -> WeightRecord | None:
        """The record; None when no node holds it any more, until it is published again."""
        try:
            record: WeightRecord = ray.get(reference, timeout=max(0.0, deadline - time.monotonic()))
        except ObjectLostError:
            return None
        except GetTimeoutError as error:
            raise DeadlineExceeded.waiting_for(what, seconds=asked_s, missing="its bytes") from error
        return record

    def latest_version(self, timeout_s: float) -> int | None:
        """The newest version; None before the first."""
        what = f"the latest weights version from {self.name}"
        latest: int | None = self._call("latest_version", what=what, timeout_s=timeout_s)
        return latest

    def _call(self, method: str, *arguments: Any, what: str, timeout_s: float, asked_s: float | None = None) -> Any:
        """One actor call, repeated while the actor restarts; every method may safely run twice."""
        deadline = time.monotonic() + timeout_s
        while True:
            try:
                reference = getattr(self.actor, method).remote(*arguments)
                return ray.get(reference, timeout=max(0.0, deadline - time.monotonic()))
            except GetTimeoutError as error:
                raise DeadlineExceeded.waiting_for(what, seconds=asked_s or timeout_s, missing="an answer") from error
            except ActorUnavailableError as error:
                if time.monotonic() + _POLL_S > deadline:
                    missing = "the store, which is restarting"
                    raise DeadlineExceeded.waiting_for(what, seconds=asked_s or timeout_s, missing=missing) from error
                time.sleep(_POLL_S)


class WeightPublisher:
    """Publishes versions, and publishes again what a store that was restarted has lost."""

    def __init__(self, store: WeightStore, *, keep: int, timeout_s: float) -> None:
        """`keep` as of the store; `timeout_s` for each publication."""
        self._store = store
        self._timeout_s = timeout_s
        self._records: deque[WeightRecord] = deque(maxlen=keep)
        """Those that the store should hold, oldest first."""

    def publish(self, record: WeightRecord) -> None:
        """See `WeightStore.publish`."""
        self._store.publish(record, timeout_s=self._timeout_s)
        if all(held.version != record.version for held in self._records):
            self._records.append(record)

    def heal(self) -> None:
        """Gives the store what it lacks; one that does not answer is logged, and asked again at the next call."""
        if not self._records:
            return
        try:
            newest = self._store.latest_version(self._timeout_s)
            lost = [record for record in self._records if newest is None or record.version > newest]
            if lost:
                versions = ", ".join(str(record.version) for record in lost)
                logger.warning("%s lost its weights; published again: version %s", self._store.name, versions)
            for record in lost:
                self._store.publish(record, timeout_s=self._timeout_s)
        except DeadlineExceeded as error:
            logger.warning("%s", error)


def start_weight_store(*, keep: int = 4) -> WeightStore:
    """Start the store's actor beside this process, on whose node it stays: it takes no CPU and lives as long as a handle on it."""
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    options = {"num_cpus": 0, "max_restarts": -1, "scheduling_strategy": here}
    actor: Any = ray.remote(_WeightStoreActor).options(**options).remote(keep)
    return WeightStore(actor=actor, name=f"weight store {actor._actor_id.hex()[:8]}")


def _unknown(version: int, held: Sequence[int]) -> str:
    return f"weights version {version} are not held; held: {_listed(held)}"


def _listed(versions: Sequence[int]) -> str:
    return ", ".join(map(str, versions)) or "none"
