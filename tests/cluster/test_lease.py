"""At most one process drives a run: locally and on a real S3 server."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from cluster.errors import UserError
from cluster.lease import LEASE, Holder, LeaseLost, RunInUse, RunLease
from cluster.storage import LocalStorage, Storage, StorageError

WHERE = "runs/one"
ELSEWHERE = replace(Holder.this_process(60.0), host="far-away", pid=7, machine="another kernel", token="theirs")


@pytest.fixture(params=["local", "s3"])
def storage(request: pytest.FixtureRequest, tmp_path: Path) -> Storage:
    if request.param == "local":
        return LocalStorage(tmp_path)
    return request.getfixturevalue("s3_server").storage(f"lease/{abs(hash(request.node.name))}")


def acquire(storage: Storage, *, expiry_s: float = 60.0) -> RunLease:
    return RunLease.acquire(storage, where=WHERE, expiry_s=expiry_s)


def put(storage: Storage, holder: Holder) -> None:
    held = storage.read_versioned(LEASE)
    data = json.dumps(asdict(holder)).encode()
    assert storage.write_if(LEASE, data, version=None if held is None else held.version) is not None


def held_by(storage: Storage) -> Holder:
    found = storage.read_versioned(LEASE)
    held = None if found is None else Holder.read(found.data)
    assert held is not None
    return held


def test_a_second_process_is_refused_until_the_first_has_ended(storage: Storage) -> None:
    with acquire(storage) as lease:
        lease.renew()
        with pytest.raises(RunInUse) as caught:
            acquire(storage)
        assert f"run directory '{WHERE}' is in use by {lease._mine}" in str(caught.value)
        assert f"process {os.getpid()}" in str(caught.value)
        assert "\n" not in str(caught.value)
    assert held_by(storage).is_released
    with acquire(storage):
        assert not held_by(storage).is_released


def test_a_killed_process_of_this_machine_is_known_to_be_dead(storage: Storage) -> None:
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    stat = Path(f"/proc/{child.pid}/stat").read_text().rpartition(")")[2].split()
    put(storage, replace(Holder.this_process(1e6), pid=child.pid, started=stat[19], token="theirs"))
    with pytest.raises(RunInUse, match=f"process {child.pid}"):
        acquire(storage)
    child.kill()
    # Not waited for yet, so the system still lists it.
    deadline = time.monotonic() + 10
    while held_by(storage).lives and time.monotonic() < deadline:
        time.sleep(0.01)
    with acquire(storage):
        assert held_by(storage).pid == os.getpid()
    child.wait(timeout=10)
    put(storage, replace(Holder.this_process(1e6), started="1", token="theirs"))
    with acquire(storage):
        assert held_by(storage).started != "1"


def test_a_process_elsewhere_is_dead_after_its_expiry_without_a_heartbeat(storage: Storage) -> None:
    put(storage, replace(ELSEWHERE, expiry_s=0.5))
    begun = time.monotonic()
    with acquire(storage):
        assert held_by(storage).host != "far-away"
    assert time.monotonic() - begun >= 0.4


def test_a_heartbeat_from_elsewhere_shows_that_the_process_lives(storage: Storage) -> None:
    put(storage, ELSEWHERE)
    beat = threading.Timer(0.3, lambda: put(storage, replace(ELSEWHERE, heartbeat=1)))
    beat.start()
    with pytest.raises(RunInUse, match=r"in use by .*@far-away, process 7, since"):
        acquire(storage)
    beat.join()
    assert held_by(storage).token == "theirs"


def test_heartbeats_go_on_by_themselves(storage: Storage) -> None:
    with acquire(storage, expiry_s=0.6):
        deadline = time.monotonic() + 10
        while held_by(storage).heartbeat < 2 and time.monotonic() < deadline:
            time.sleep(0.05)
        assert held_by(storage).heartbeat >= 2


def test_who_was_taken_for_dead_notices(storage: Storage) -> None:
    with acquire(storage) as lease:
        put(storage, ELSEWHERE)
        with pytest.raises(LeaseLost, match=r"'runs/one' was taken over by .*@far-away"):
            lease.renew()
        with pytest.raises(LeaseLost):
            lease.check()
    assert held_by(storage) == ELSEWHERE


def test_of_many_that_come_at_once_one_gets_it(storage: Storage) -> None:
    results: list[RunLease | RunInUse] = []

    def come() -> None:
        try:
            results.append(acquire(storage))
        except RunInUse as error:
            results.append(error)

    threads = [threading.Thread(target=come) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    (winner,) = [each for each in results if isinstance(each, RunLease)]
    assert len(results) == 6
    with winner:
        winner.renew()


class Flaky(LocalStorage):
    """Does as told with each conditional write."""

    act: Callable[[Callable[[], str | None]], str | None] = staticmethod(lambda write: write())

    def write_if(self, key: str, data: bytes, *, version: str | None) -> str | None:
        return self.act(lambda: super(Flaky, self).write_if(key, data, version=version))


def test_a_heartbeat_that_was_written_but_reported_lost_is_our_own(tmp_path: Path) -> None:
    storage = Flaky(tmp_path)

    def written_and_lost(write: Callable[[], str | None]) -> str | None:
        assert write() is not None
        raise StorageError("the answer was lost")

    with acquire(storage) as lease:
        storage.act = written_and_lost
        with pytest.raises(StorageError):
            lease.renew()
        storage.act = lambda write: write()
        lease.renew()
    assert held_by(storage).is_released


def test_a_storage_out_of_reach_is_no_reason_to_stop(tmp_path: Path) -> None:
    storage = Flaky(tmp_path)
    failures = []

    def fail(write: Callable[[], str | None]) -> str | None:
        failures.append(1)
        raise StorageError("out of reach")

    with acquire(storage, expiry_s=0.3) as lease:
        storage.act = fail
        deadline = time.monotonic() + 10
        while len(failures) < 3 and time.monotonic() < deadline:
            time.sleep(0.02)
        lease.check()
        storage.act = lambda write: write()
        lease.renew()


def test_a_removed_lease_is_written_anew(tmp_path: Path) -> None:
    storage = LocalStorage(tmp_path)
    with acquire(storage) as lease:
        storage.delete(LEASE)
        lease.renew()
        with pytest.raises(RunInUse):
            acquire(storage)


@pytest.mark.parametrize("condition", ["If-None-Match", "If-Match"])
def test_a_server_without_conditional_writes_is_refused(tmp_path: Path, condition: str) -> None:
    class Careless(LocalStorage):
        """Keeps to the other condition."""

        def write_if(self, key: str, data: bytes, *, version: str | None) -> str | None:
            if (version is None) == (condition == "If-None-Match"):
                self.write(key, data)
                return "any"
            return super().write_if(key, data, version=version)

    with pytest.raises(UserError, match=f"ignores {condition}, so a run there cannot be protected"):
        acquire(Careless(tmp_path))
