from __future__ import annotations

import os
from pathlib import Path

import pytest

from cluster.errors import UserError
from cluster.storage import LocalStorage, open_storage


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


def test_only_local_paths_can_be_opened(tmp_path: Path) -> None:
    open_storage(str(tmp_path)).write("a", b"1")
    assert (tmp_path / "a").read_bytes() == b"1"
    with pytest.raises(UserError, match=r"'s3://bucket/x': s3:// is not supported .* allowed: a local path"):
        open_storage("s3://bucket/x")
    with pytest.raises(UserError, match="'gs://bucket'"):
        open_storage("gs://bucket")
