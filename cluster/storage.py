"""Bytes under keys: a reader sees a whole value or none, and every failure raises.

Keys are relative paths with ``/``; a key that would leave the root is refused.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

from cluster.errors import UserError

_TEMPORARY = re.compile(r"\.(.+)\.[0-9a-f]{8}\.([a-z]+)\.tmp")
_USER_ERRNO = {errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOENT, errno.ENOTDIR, errno.EEXIST, errno.EISDIR}


class Storage(Protocol):
    """Where artefacts live; the same contract for a local folder and for an object store."""

    def read(self, key: str) -> bytes:
        """The value of `key`; raises FileNotFoundError."""

    def write(self, key: str, data: bytes) -> None:
        """Set `key` to `data` atomically and durably; raises UserError when the place cannot be written."""

    def exists(self, key: str) -> bool:
        """Whether `key` has a value."""

    def list(self, prefix: str) -> list[str]:
        """All keys that begin with the text `prefix`, sorted."""

    def delete(self, key: str) -> None:
        """Remove `key`; nothing happens when there is none."""


class LocalStorage:
    """Storage in a local folder, which the first write makes."""

    def __init__(self, root: Path) -> None:
        self.root = Path(root)

    def read(self, key: str) -> bytes:
        return self._path(key).read_bytes()

    def write(self, key: str, data: bytes) -> None:
        path = self._path(key)
        with unwritable_is_user_error(path):
            make_directory(path.parent)
            atomic_write(path, data)

    def exists(self, key: str) -> bool:
        return self._path(key).is_file()

    def list(self, prefix: str) -> list[str]:
        folder = prefix.rpartition("/")[0]
        start = self._path(folder) if folder else self.root
        if not start.is_dir():
            return []
        walk = os.walk(start, onerror=_raise)
        files = [Path(folder, name) for folder, _, names in walk for name in names]
        keys = [path.relative_to(self.root).as_posix() for path in files if not is_temporary(path)]
        return sorted(key for key in keys if key.startswith(prefix))

    def delete(self, key: str) -> None:
        path = self._path(key)
        path.unlink(missing_ok=True)
        if path.parent.is_dir():
            sync_directory(path.parent)

    def _path(self, key: str) -> Path:
        return self.root / check_key(key)


def _raise(error: OSError) -> None:
    raise error


def open_storage(uri: str) -> Storage:
    """The storage at `uri`, a local path; raises UserError for anything else."""
    scheme, separator, _ = uri.partition("://")
    if separator and scheme == "s3":
        raise UserError(f"storage '{uri}': s3:// is not supported by this version yet; allowed: a local path")
    if separator or not uri:
        raise UserError(f"storage '{uri}' is of no known kind; allowed: a local path")
    return LocalStorage(Path(uri).expanduser())


def check_key(key: str) -> str:
    """`key` itself, or ValueError when it is absolute or has an empty, ``.`` or ``..`` part."""
    if "\0" in key or "\\" in key or any(part in ("", ".", "..") for part in key.split("/")):
        raise ValueError(f"key {key!r} is not a relative path of plain names")
    return key


def temporary_beside(path: Path, *, kind: str = "new") -> Path:
    """A fresh name in the folder of `path` that `is_temporary` knows; a crash may leave it behind."""
    return path.with_name(f".{path.name}.{secrets.token_hex(4)}.{kind}.tmp")


def is_temporary(path: Path) -> bool:
    """Whether `path` is a leftover of a write that did not finish."""
    return temporary_origin(path) is not None


def temporary_origin(path: Path) -> tuple[Path, str] | None:
    """The path and kind that `temporary_beside` made `path` from; None for any other path."""
    match = _TEMPORARY.fullmatch(path.name)
    return (path.with_name(match[1]), match[2]) if match else None


def write_durably(path: Path, data: bytes) -> None:
    """Write and fsync one file; not atomic, the folder entry is not synced."""
    with path.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def sync_directory(path: Path) -> None:
    """Make the entries of the folder `path` durable."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def make_directory(path: Path) -> None:
    """Make the folder `path` and those above it durably; it may exist."""
    missing = [folder for folder in (path, *path.parents) if not folder.exists()]
    path.mkdir(parents=True, exist_ok=True)
    for folder in missing:
        sync_directory(folder.parent)


def atomic_write(path: Path, data: bytes) -> None:
    """Replace the file at `path` by `data` all at once and durably; its folder must exist."""
    temporary = temporary_beside(path)
    try:
        write_durably(temporary, data)
        os.replace(temporary, path)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise
    sync_directory(path.parent)


@contextlib.contextmanager
def unwritable_is_user_error(path: Path) -> Iterator[None]:
    """Turn permission, read-only and no-such-folder errors into a UserError that names `path`; others propagate."""
    try:
        yield
    except OSError as error:
        if error.errno not in _USER_ERRNO:
            raise
        raise UserError(f"cannot write '{path}': {error.strerror}; allowed: a path that this user may write") from error
