from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from cluster.errors import UserError
from cluster.storage import Bucket, LocalStorage, open_storage, parse_location


@pytest.fixture
def storage(tmp_path: Path) -> LocalStorage:
    return LocalStorage(tmp_path / "root")


def test_what_is_written_is_read_listed_and_deleted(storage: LocalStorage) -> None:
    assert storage.list("") == []
    for key in ("b/2", "a", "b/10", "bc"):
        storage.write(key, key.encode())
    storage.write("a", b"new")
    assert storage.read("a") == b"new"
    assert storage.list("") == ["a", "b/10", "b/2", "bc"]
    assert storage.list("b") == ["b/10", "b/2", "bc"]
    assert storage.list("b/") == ["b/10", "b/2"]
    assert storage.list("b/1") == ["b/10"]
    assert storage.list("none/x") == []
    storage.delete("b/10")
    storage.delete("b/10")
    assert not storage.exists("b/10")
    assert storage.exists("b/2")
    assert not storage.exists("b")
    with pytest.raises(FileNotFoundError):
        storage.read("b/10")


@pytest.mark.parametrize("key", ["", "/etc/passwd", "../x", "a/../../x", "a//b", "a/.", "a/", "a\0b", "..\\x"])
def test_a_key_that_could_leave_the_root_is_refused(storage: LocalStorage, key: str) -> None:
    with pytest.raises(ValueError, match="not a relative path"):
        storage.write(key, b"")
    with pytest.raises(ValueError, match="not a relative path"):
        storage.read(key)


def test_a_crash_before_the_rename_keeps_the_old_value(storage: LocalStorage, monkeypatch: pytest.MonkeyPatch) -> None:
    storage.write("a/b", b"old")

    class Crash(BaseException):
        pass

    def crash(*_: object) -> None:
        raise Crash

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", crash)
        with pytest.raises(Crash):
            storage.write("a/b", b"new")
    assert storage.read("a/b") == b"old"
    assert storage.list("") == ["a/b"]


def test_a_failed_write_leaves_nothing_and_other_errors_propagate(
    storage: LocalStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    storage.write("a/b", b"old")

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", full)
        with pytest.raises(OSError, match="No space left"):
            storage.write("a/b", b"new")
    assert [path.name for path in (storage.root / "a").iterdir()] == ["b"]


def test_an_unwritable_place_is_the_users_mistake(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for root in (tmp_path / "file", Path("/proc/nothing")):
        with pytest.raises(UserError, match=f"cannot write '{root}/key'"):
            LocalStorage(root).write("key", b"")


def test_a_value_is_written_only_on_top_of_the_version_that_was_read(storage: LocalStorage) -> None:
    assert storage.read_versioned("a/lease") is None
    assert storage.write_if("a/lease", b"x", version="other") is None
    first = storage.write_if("a/lease", b"1", version=None)
    assert storage.write_if("a/lease", b"2", version=None) is None
    assert first is not None
    second = storage.write_if("a/lease", b"a longer one", version=first)
    assert storage.write_if("a/lease", b"3", version=first) is None
    held = storage.read_versioned("a/lease")
    assert held is not None
    assert (held.data, held.version) == (b"a longer one", second)
    os.utime(storage.root / "a" / "lease", (0, 0))
    again = storage.read_versioned("a/lease")
    assert again is not None
    assert held.age_s < 60 < 10**9 < again.age_s


def test_of_many_writers_on_one_version_one_wins(storage: LocalStorage) -> None:
    version = None
    with ThreadPoolExecutor(8) as pool:
        for _ in range(20):
            values = [os.urandom(8) for _ in range(8)]
            written = list(pool.map(lambda data, version=version: storage.write_if("k", data, version=version), values))
            (version,) = [each for each in written if each is not None]
            assert storage.read("k") == values[written.index(version)]


def test_a_local_path_is_opened(tmp_path: Path) -> None:
    open_storage(str(tmp_path)).write("a", b"1")
    assert (tmp_path / "a").read_bytes() == b"1"


@pytest.mark.parametrize(
    ("uri", "location"),
    [
        ("s3://bucket/runs/a", Bucket("bucket", "runs/a/")),
        ("s3://bucket/runs/a/", Bucket("bucket", "runs/a/")),
        ("s3://my.bucket-1", Bucket("my.bucket-1", "")),
        ("runs/a", Path("runs/a")),
        ("runs/a:1", Path("runs/a:1")),
        ("/data/s3/x", Path("/data/s3/x")),
    ],
)
def test_locations(uri: str, location: object) -> None:
    assert parse_location(uri) == location


@pytest.mark.parametrize(
    "uri",
    ["", "s3:/bucket/x", "s3:bucket", "S3://bucket/x", "gs://bucket", "file:///x", "s3://", "s3:///x", "s3://b", "s3://Bucket/x",
     "s3://bucket/a//b", "s3://bucket/../x", "s3://user@bucket/x"],
)  # fmt: skip
def test_what_is_neither_a_path_nor_a_bucket_is_refused(uri: str) -> None:
    with pytest.raises(UserError, match=r"^run_dir is '.*allowed: a local path, or s3://BUCKET/PREFIX$") as caught:
        parse_location(uri, what="run_dir")
    assert repr(uri) in str(caught.value)
