"""The lease of a run: at most one living process drives it.

The holder rewrites ``lease.json`` at every heartbeat, only ever if it is as the holder left it, so a holder that was taken for dead
finds out at its next heartbeat. Another process takes the lease over once it is released, once its holder is known to be dead (same
machine, no such process), or when it is older than its expiry by the clock of the storage; a heartbeat in the meantime shows that
the holder lives.
"""

from __future__ import annotations

import getpass
import json
import os
import secrets
import socket
import threading
import time
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Self

from cluster.errors import RunFailure, UserError
from cluster.logs import get_logger
from cluster.storage import Storage, StorageError, Versioned

LEASE = "lease.json"
_HEARTBEATS_PER_EXPIRY = 6
_NO_VERSION = '"00000000000000000000000000000000"'
"""An entity tag that no lease has."""
_POLL_S = 1.0

logger = get_logger(__name__)


class RunInUse(UserError):
    """Another living process drives the run."""


class LeaseLost(RunFailure):
    """Another process took the run over."""


@dataclass(frozen=True, slots=True)
class Holder:
    """Who drives a run; written as JSON."""

    user: str
    host: str
    pid: int
    machine: str | None
    """Names the kernel and the process namespace in which `pid` means something; None where the system tells neither."""
    started: str | None
    """When the process was started, by the kernel's clock: tells it from a later one with the same `pid`."""
    token: str
    since: str
    expiry_s: float
    heartbeat: int = 0
    is_released: bool = False

    @classmethod
    def this_process(cls, expiry_s: float) -> Holder:
        now = datetime.now(UTC).isoformat(timespec="seconds")
        pid = os.getpid()
        return cls(
            _user(), socket.gethostname(), pid, _machine(), _started(pid), secrets.token_hex(8), now, expiry_s
        )  # fmt: skip

    @classmethod
    def read(cls, data: bytes) -> Holder | None:
        """None for what is no lease of this version."""
        try:
            return cls(**json.loads(data))
        except (ValueError, TypeError):
            return None

    @property
    def lives(self) -> bool | None:
        """Whether the process runs; None on another machine, where nobody can tell from here."""
        if self.machine is None or self.machine != _machine():
            return None
        return _started(self.pid) == self.started

    def __str__(self) -> str:
        return f"{self.user}@{self.host}, process {self.pid}, since {self.since}"


class RunLease:
    """A lease that this process holds; a context manager that releases it."""

    def __init__(self, storage: Storage, where: str, mine: Holder, version: str) -> None:
        self._storage = storage
        self._where = where
        self._mine = mine
        self._version = version
        self._lock = threading.Lock()
        self._lost: LeaseLost | None = None
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._beat, name="run lease", daemon=True)
        self._thread.start()

    @classmethod
    def acquire(cls, storage: Storage, *, where: str, expiry_s: float) -> RunLease:
        """The lease of the run at `where`; raises RunInUse, at the latest after the expiry of a lease that may be dead."""
        mine, watch = Holder.this_process(expiry_s), _Watch(where)
        while True:
            found = storage.read_versioned(LEASE)
            if found is None or watch.is_free(found):
                version = storage.write_if(LEASE, _dump(mine), version=None if found is None else found.version)
                if version is not None:
                    if found is None:
                        _check_conditional(storage, where)
                    return cls(storage, where, mine, version)
            else:
                time.sleep(_POLL_S)

    def renew(self) -> None:
        """One heartbeat; raises LeaseLost when another process holds the lease."""
        with self._lock:
            self.check()
            self._write(replace(self._mine, heartbeat=self._mine.heartbeat + 1))

    def check(self) -> None:
        """Raises LeaseLost once a heartbeat has found another holder; asks nobody."""
        if self._lost is not None:
            raise self._lost

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._ended.set()
        self._thread.join()
        try:
            with self._lock:
                if self._lost is None:
                    self._write(replace(self._mine, is_released=True))
        except (StorageError, UserError, LeaseLost, OSError) as failure:
            logger.warning("the lease of '%s' was not released and has to expire: %s", self._where, failure)

    def _write(self, holder: Holder) -> None:
        version = self._storage.write_if(LEASE, _dump(holder), version=self._version)
        if version is None:
            found = self._storage.read_versioned(LEASE)
            other = None if found is None else Holder.read(found.data)
            if found is not None and (other is None or other.token != self._mine.token):
                self._lost = LeaseLost(f"run directory '{self._where}' was taken over by {other}; this process stops")
                raise self._lost
            # A write of ours whose answer was lost, or somebody removed the file.
            version = self._storage.write_if(LEASE, _dump(holder), version=None if found is None else found.version)
            if version is None:
                raise StorageError(f"cannot write the lease of '{self._where}': it keeps changing")
        self._mine, self._version = holder, version

    def _beat(self) -> None:
        while not self._ended.wait(self._mine.expiry_s / _HEARTBEATS_PER_EXPIRY):
            try:
                self.renew()
            except LeaseLost:
                return
            except (StorageError, UserError, OSError) as failure:
                # Whether the lease still holds is only known once the storage answers again.
                logger.warning("no heartbeat for '%s': %s", self._where, failure)


class _Watch:
    """Decides whether the lease of another process is free; raises RunInUse when that process lives."""

    def __init__(self, where: str) -> None:
        self._where = where
        self._first: str | None = None
        self._since = time.monotonic()

    def is_free(self, found: Versioned) -> bool:
        holder = Holder.read(found.data)
        if holder is None or holder.is_released or holder.lives is False:
            return True
        if holder.lives or self._first not in (None, found.version):
            raise RunInUse(
                f"run directory '{self._where}' is in use by {holder} (heartbeat {found.age_s:.0f} s ago); nothing was "
                "changed; allowed: the same once that run has ended, or another run_dir"
            )
        if self._first is None:
            self._first = found.version
        waited = time.monotonic() - self._since
        if max(found.age_s, waited) >= holder.expiry_s:
            logger.warning("taking over '%s' from %s, without heartbeat for %.0f s", self._where, holder, found.age_s)
            return True
        if waited < _POLL_S:
            left = holder.expiry_s - found.age_s
            logger.warning("'%s' is held by %s; waiting up to %.0f s for a heartbeat", self._where, holder, left)
        return False


def _check_conditional(storage: Storage, where: str) -> None:
    """A server that ignores conditions lets a second creation pass, or a write over another version."""
    held = storage.read_versioned(LEASE)
    if held is None:
        return
    for condition, version in (("If-None-Match", None), ("If-Match", _NO_VERSION)):
        # Other bytes than those held: a write whose answer is lost and that finds its own bytes there counts as done.
        if storage.write_if(LEASE, held.data + b"\n", version=version) is not None:
            raise UserError(
                f"the server of '{where}' ignores {condition}, so a run there cannot be protected from a second copy; "
                "allowed: a server with conditional writes"
            )


def _dump(holder: Holder) -> bytes:
    return json.dumps(asdict(holder), indent=1).encode()


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return str(os.getuid())


def _machine() -> str | None:
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return None


def _started(pid: int) -> str | None:
    """Field 22 of ``/proc/PID/stat``; None for no process, and for one that is dead and not yet waited for."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] in "ZX" else fields[19]
