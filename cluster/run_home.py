"""Opens a run wherever it lives, for the one process that drives it: everything that can be refused is, before work starts."""

from __future__ import annotations

import contextlib
import shutil
import tempfile
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cluster.errors import UserError
from cluster.lease import RunLease
from cluster.mirror import RunMirror, Uploader
from cluster.run_dir import CONFIG, RunDir, check_run
from cluster.storage import (
    Bucket,
    LocalStorage,
    Storage,
    StorageConfig,
    StorageError,
    parse_location,
    unwritable_is_user_error,
)
from cluster.yaml_files import parse_yaml


@dataclass(frozen=True, slots=True)
class RunHome:
    """A run directory that this process may write, and the lease that says so."""

    run_dir: RunDir
    lease: RunLease


@contextlib.contextmanager
def open_run(
    uri: str,
    config: Mapping[str, Any],
    *,
    resume: bool | None = None,
    ignore: Sequence[str] = (),
    storage: StorageConfig,
) -> Iterator[RunHome]:
    """The run at `uri`, a local path or ``s3://BUCKET/PREFIX``, leased until the end of the context.

    Raises a UserError, with nothing changed, for a place that cannot be reached or written, holds something else or another run
    (`check_run` says what `resume` and `ignore` do), or whose run another living process drives. A run in S3 is worked on in a
    local copy; its end raises StorageError where the store could not be made equal to it, and then the copy is kept and named.
    """
    location = parse_location(uri, what="config key 'run_dir'")
    if isinstance(location, Path):
        with _open_local(location, config, resume=resume, ignore=ignore, storage=storage) as home:
            yield home
    else:
        with _open_s3(location, config, resume=resume, ignore=ignore, storage=storage) as home:
            yield home


@contextlib.contextmanager
def _open_local(
    path: Path, config: Mapping[str, Any], *, resume: bool | None, ignore: Sequence[str], storage: StorageConfig
) -> Iterator[RunHome]:
    run = RunDir(path)
    with unwritable_is_user_error(path):
        run.check(config, resume=resume, ignore=ignore)
        lease = RunLease.acquire(LocalStorage(path), where=run.location, expiry_s=storage.lease_expiry_s)
    with lease:
        with unwritable_is_user_error(path):
            # Again: another process may have started and ended the run before the lease was ours.
            run.check(config, resume=resume, ignore=ignore)
            run.begin(config)
        yield RunHome(run, lease)


@contextlib.contextmanager
def _open_s3(
    bucket: Bucket, config: Mapping[str, Any], *, resume: bool | None, ignore: Sequence[str], storage: StorageConfig
) -> Iterator[RunHome]:
    # Here, because it takes a second to import and local runs do without.
    from cluster.s3 import S3Storage

    remote = S3Storage(bucket, storage)
    where = bucket.uri()
    with _out_of_reach_is_user_error(storage):
        start = remote.within(storage.start_deadline_s)
        _check_remote(start, config, where=where, resume=resume, ignore=ignore)
    lease = RunLease.acquire(remote.within(storage.lease_expiry_s / 2), where=where, expiry_s=storage.lease_expiry_s)
    with lease, contextlib.ExitStack() as undo:
        folder = _scratch(storage)
        undo.callback(shutil.rmtree, folder)
        wake = threading.Event()
        run = RunDir(folder, location=where, on_publish=wake.set)
        mirror = RunMirror(run, remote, confirm=lease.renew)
        mirror.pull()
        run.check(config, resume=resume, ignore=ignore)
        run.begin(config)
        mirror.sync()
        undo.pop_all()
        with Uploader(mirror, folder, wake=wake, every_s=storage.sync_every_s):
            yield RunHome(run, lease)


def _check_remote(
    remote: Storage, config: Mapping[str, Any], *, where: str, resume: bool | None, ignore: Sequence[str]
) -> None:
    names = {key.partition("/")[0] for key in remote.list("")}
    held = None
    if CONFIG in names:
        held = parse_yaml(remote.read(CONFIG).decode(), source=f"{where}/{CONFIG}")
    check_run(held, config, names, where=where, resume=resume, ignore=ignore)


def _scratch(storage: StorageConfig) -> Path:
    """A new folder for the local copy."""
    parent = Path(storage.scratch or tempfile.gettempdir()).expanduser()
    with unwritable_is_user_error(parent):
        parent.mkdir(parents=True, exist_ok=True)
        return Path(tempfile.mkdtemp(prefix="run-", dir=parent))


@contextlib.contextmanager
def _out_of_reach_is_user_error(storage: StorageConfig) -> Iterator[None]:
    try:
        yield
    except StorageError as error:
        raise UserError(
            f"{error}; allowed: a server that answers within storage.start_deadline_s = {storage.start_deadline_s:g}"
        ) from error
