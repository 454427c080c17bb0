from __future__ import annotations

import dataclasses
import os
import time

import pytest
import ray

from cluster.errors import DeadlineExceeded
from cluster.weight_store import (
    UnknownVersion,
    WeightMismatch,
    WeightPublisher,
    WeightRecord,
    WeightStore,
    WeightTable,
    start_weight_store,
)


def record(version: int, data: bytes = b"weights", fingerprint: str = "dit-2x64") -> WeightRecord:
    return WeightRecord.make(version, data, fingerprint)


def test_a_changed_record_does_not_verify() -> None:
    good = record(3)
    good.verify(fingerprint="dit-2x64")
    with pytest.raises(WeightMismatch, match="version 3: checksum"):
        dataclasses.replace(good, data=b"veights").verify()
    with pytest.raises(WeightMismatch, match="for architecture 'dit-2x64', not for 'dit-4x64'"):
        good.verify(fingerprint="dit-4x64")


def test_versions_strictly_increase_and_the_last_ones_are_kept() -> None:
    table = WeightTable(keep=2)
    assert table.latest_version() is None
    for version in (0, 1, 5):
        table.publish(record(version, bytes([version])))
    assert table.latest_version() == 5
    assert table.get(1).data == b"\x01"
    with pytest.raises(UnknownVersion, match=r"version 0 are not held; held: 1, 5$"):
        table.get(0)
    with pytest.raises(WeightMismatch, match="version 4 are older than version 5"):
        table.publish(record(4))
    assert table.versions() == [1, 5]


def test_publishing_the_same_again_is_nothing_and_other_content_is_refused() -> None:
    table = WeightTable(keep=2)
    table.publish(record(1))
    table.publish(record(2))
    table.publish(record(1))
    table.publish(record(2))
    assert table.versions() == [1, 2]
    for other in (record(2, b"other"), record(2, fingerprint="other")):
        with pytest.raises(WeightMismatch, match="version 2 were already published with other content"):
            table.publish(other)
    with pytest.raises(WeightMismatch, match="checksum"):
        table.publish(dataclasses.replace(record(3), checksum="0" * 64))
    assert table.get(2) == record(2)


@pytest.fixture(scope="module")
def store(ray_local: None) -> WeightStore:
    return start_weight_store(keep=2)


@pytest.mark.ray
def test_a_worker_fetches_what_the_driver_published(store: WeightStore) -> None:
    data = os.urandom(1_300_000)
    store.publish(record(1, data), timeout_s=60)
    assert store.latest_version(60) == 1

    @ray.remote(num_cpus=0)
    def fetch(handle: WeightStore) -> tuple[str, int]:
        fetched = handle.fetch(1, fingerprint="dit-2x64", timeout_s=60)
        return fetched.checksum, len(fetched.data)

    assert ray.get(fetch.remote(store), timeout=120) == (record(1, data).checksum, len(data))
    with pytest.raises(WeightMismatch, match="not for 'other'"):
        store.fetch(1, fingerprint="other", timeout_s=60)
    with pytest.raises(WeightMismatch, match=rf"{store.name}: weights version 1 were already published"):
        store.publish(record(1), timeout_s=60)


@pytest.mark.ray
def test_a_version_that_does_not_come_is_named_with_its_store(store: WeightStore) -> None:
    with pytest.raises(DeadlineExceeded) as caught:
        store.fetch(9, fingerprint="dit-2x64", timeout_s=1)
    assert f"waited 1 s for weights version 9 from {store.name}" in str(caught.value)


@pytest.mark.ray
def test_a_version_that_was_replaced_is_told_at_once(store: WeightStore) -> None:
    for version in (11, 12, 13):
        store.publish(record(version), timeout_s=60)
    start = time.monotonic()
    with pytest.raises(UnknownVersion, match=rf"{store.name}: weights version 11 are not held; held: 12, 13"):
        store.fetch(11, fingerprint="dit-2x64", timeout_s=60)
    assert time.monotonic() - start < 30


@pytest.mark.ray
def test_a_fetch_outlives_a_restart_of_the_store_and_publishing_again_heals_it(store: WeightStore) -> None:
    store.publish(record(20), timeout_s=60)
    ray.kill(store.actor, no_restart=False)
    deadline = time.monotonic() + 120
    while store.latest_version(120) is not None and time.monotonic() < deadline:
        time.sleep(0.1)
    store.publish(record(20), timeout_s=120)
    assert store.fetch(20, fingerprint="dit-2x64", timeout_s=120) == record(20)


@pytest.mark.ray
def test_a_restarted_store_is_given_every_version_that_it_lost(store: WeightStore) -> None:
    publisher = WeightPublisher(store, keep=2, timeout_s=120)
    for version in (30, 31, 32):
        publisher.publish(record(version))
    publisher.heal()
    ray.kill(store.actor, no_restart=False)
    deadline = time.monotonic() + 120
    while store.latest_version(120) is not None and time.monotonic() < deadline:
        time.sleep(0.1)
    publisher.heal()
    for version in (31, 32):
        assert store.fetch(version, fingerprint="dit-2x64", timeout_s=120) == record(version)
    with pytest.raises(UnknownVersion):
        store.fetch(30, fingerprint="dit-2x64", timeout_s=120)
