"""Bytes under keys, in a local folder or an S3 bucket: a reader sees a whole value or none, and every failure raises.

Keys are relative paths with ``/``; a key that would leave the root is refused. The mistakes of the user (a place that cannot be
read or written) are UserErrors; an object store that stays out of reach until the deadline is a StorageError.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import os
import re
import secrets
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

from cluster.config import setting
from cluster.errors import RunFailure, UserError

_TEMPORARY = re.compile(r"\.(.+)\.[0-9a-f]{8}\.([a-z]+)\.tmp")
_USER_ERRNO = {errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOENT, errno.ENOTDIR, errno.EEXIST, errno.EISDIR,
               errno.ENOLCK, errno.ENOTSUP}  # fmt: skip
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:/|[sS]3:")
_BUCKET = re.compile(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]")
_ALLOWED = "a local path, or s3://BUCKET/PREFIX"


@dataclass(frozen=True)
class StorageConfig:
    """How an object store is reached; credentials come from boto3's standard chain alone (environment, profile, role)."""

    endpoint: str | None = setting(None, help="URL of an S3 server; null is what AWS_ENDPOINT_URL_S3 says, or AWS")
    region: str | None = setting(None, help="of the bucket; null is what AWS_REGION or the profile says")
    addressing_style: Literal["auto", "path", "virtual"] = setting(
        "auto", help="path: the bucket in the URL's path, as most servers other than AWS want it"
    )
    timeout_s: float = setting(20.0, help="for a connection, and for each answer of the server", above=0.0)
    start_deadline_s: float = setting(20.0, help="for an operation with its retries, before work starts", above=0.0)
    deadline_s: float = setting(120.0, help="for an operation with its retries, later on", above=0.0)
    part_mib: int = setting(16, help="larger objects are uploaded in parts of this size", minimum=5)
    sync_every_s: float = setting(30.0, help="between uploads of what changed; a checkpoint goes at once", above=0.0)
    lease_expiry_s: float = setting(60.0, help="without a heartbeat, after which a run counts as dead", above=0.0)
    scratch: str | None = setting(None, help="folder for the local copy of a run in S3; null is the system's own")


class StorageError(RunFailure):
    """The storage did not do an operation by its deadline; the message names the operation, the object and the last reason."""


@dataclass(frozen=True, slots=True)
class Versioned:
    """A value as one write left it."""

    data: bytes
    version: str
    """Changes with every `Storage.write_if`."""
    age_s: float
    """Since it was written, by the clock of the storage."""


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

    def read_versioned(self, key: str) -> Versioned | None:
        """The value of `key` that only `write_if` writes; None when there is none."""

    def write_if(self, key: str, data: bytes, *, version: str | None) -> str | None:
        """Set `key` to `data` if its version is still `version` (None: if there is none); the new version, or None if not."""


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

    def read_versioned(self, key: str) -> Versioned | None:
        try:
            with self._path(key).open("rb") as file:
                fcntl.flock(file, fcntl.LOCK_SH)
                data = file.read()
                age_s = time.time() - os.fstat(file.fileno()).st_mtime
        except FileNotFoundError:
            return None
        return Versioned(data, _version(data), max(0.0, age_s)) if data else None

    def write_if(self, key: str, data: bytes, *, version: str | None) -> str | None:
        assert data, "an empty file is one whose first write never came"
        path = self._path(key)
        with unwritable_is_user_error(path):
            make_directory(path.parent)
            # Under the lock a file is written in place: a rename would leave those who wait for the lock with the old file.
            with path.open("a+b") as file:
                fcntl.flock(file, fcntl.LOCK_EX)
                file.seek(0)
                held = file.read()
                if (_version(held) if held else None) != version:
                    return None
                file.truncate(0)
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
        return _version(data)

    def _path(self, key: str) -> Path:
        return self.root / check_key(key)


def _raise(error: OSError) -> None:
    raise error


def _version(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


@dataclass(frozen=True, slots=True)
class Bucket:
    """Where in S3: all keys of the bucket that begin with `prefix`, which is empty or ends with a slash."""

    name: str
    prefix: str

    def uri(self, key: str = "") -> str:
        return f"s3://{self.name}/{self.prefix}{key}".rstrip("/")


def parse_location(uri: str, *, what: str = "storage") -> Path | Bucket:
    """A local path, or the bucket of ``s3://BUCKET/PREFIX``; a UserError that begins with `what` for anything else."""
    if not uri.startswith("s3://"):
        if not uri or _SCHEME.match(uri):
            raise UserError(f"{what} is {uri!r}, of no known kind; allowed: {_ALLOWED}")
        return Path(uri).expanduser()
    name, _, prefix = uri.removeprefix("s3://").partition("/")
    prefix = prefix.strip("/")
    if not _BUCKET.fullmatch(name) or (prefix and not _is_key(prefix)):
        raise UserError(f"{what} is {uri!r}, which names no bucket and prefix; allowed: {_ALLOWED}")
    return Bucket(name, f"{prefix}/" if prefix else "")


def open_storage(uri: str, config: StorageConfig | None = None) -> Storage:
    """The storage at `uri`, a local path or ``s3://BUCKET/PREFIX``; raises UserError for anything else."""
    location = parse_location(uri)
    if isinstance(location, Path):
        return LocalStorage(location)
    # Here, because it takes a second to import and local runs do without.
    from cluster.s3 import S3Storage

    return S3Storage(location, config or StorageConfig())


def check_key(key: str) -> str:
    """`key` itself, or ValueError when it is absolute or has an empty, ``.`` or ``..`` part."""
    if not _is_key(key):
        raise ValueError(f"key {key!r} is not a relative path of plain names")
    return key


def _is_key(key: str) -> bool:
    return "\0" not in key and "\\" not in key and not any(part in ("", ".", "..") for part in key.split("/"))


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
