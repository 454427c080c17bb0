"""A run directory in an object store: the run works in a local copy, and one thread makes the store equal to it.

A group's manifest is uploaded last and deleted first, so a reader of the store sees a whole group or a torn one, never a mixture.
Groups that are there when a sync begins are uploaded after the plain files, so a checkpoint never lies in the store without the
metrics that led to it; then come archived trajectories, which may be large, and what the run deleted goes last. A sync that fails
has changed nothing that the next does not mend: it is logged, tried again, and an error only if the last one fails too.
"""

from __future__ import annotations

import os
import shutil
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Self

from cluster.errors import UserError
from cluster.lease import LEASE, LeaseLost
from cluster.logs import get_logger
from cluster.run_dir import CHECKPOINTS, MANIFEST, TRAJECTORIES, RunDir, TornArtefact
from cluster.storage import Storage, StorageError, is_temporary

_SPOOLED = f"{TRAJECTORIES}/"
"""Files that are written once: removed here when they are uploaded, and not fetched on a resume."""

logger = get_logger(__name__)


class RunMirror:
    """Keeps `remote` equal to the local copy `run`, which belongs to this process alone."""

    def __init__(self, run: RunDir, remote: Storage, *, confirm: Callable[[], None] = lambda: None) -> None:
        """`confirm` raises when this process may no longer write; it is asked before every sync and every group."""
        self._run = run
        self._remote = remote
        self._confirm = confirm
        self._files: dict[str, tuple[int, int]] = {}
        """Key -> size and modification time of the plain file that the store has."""
        self._groups: dict[str, bytes] = {}
        """Name -> manifest of the group that the store has; empty bytes for one that is torn there, or may be."""
        self._lock = threading.Lock()

    def pull(self) -> None:
        """Fills the local copy from the store."""
        keys = [key for key in self._remote.list("") if key != LEASE and not key.startswith(_SPOOLED)]
        for key in keys:
            path = self._run.path / key
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(self._remote.read(key))
        self._files, self._groups = self._local()
        for name in self._run.published(CHECKPOINTS):
            if not self._is_whole(name):
                self._groups[name] = b""

    def sync(self) -> None:
        """Makes the store equal to the local copy; raises StorageError, UserError or LeaseLost."""
        with self._lock:
            self._confirm()
            files, groups = self._local()
            spooled = {key for key in files if key.startswith(_SPOOLED)}
            self._upload_files({key: state for key, state in files.items() if key not in spooled})
            for name, manifest in groups.items():
                if self._groups.get(name) != manifest:
                    # What came before may have taken long, and a group replaces one of the same name.
                    self._confirm()
                    self._upload_group(name)
            self._upload_files({key: files[key] for key in spooled})
            for name in [name for name in self._groups if name not in groups and not (self._run.path / name).exists()]:
                self._delete_group(name)

    def _local(self) -> tuple[dict[str, tuple[int, int]], dict[str, bytes]]:
        """Plain files by key, and groups by name in order, as they are now."""
        files: dict[str, tuple[int, int]] = {}
        groups: dict[str, bytes] = {}
        root = self._run.path
        for folder, folders, names in os.walk(root):
            here = Path(folder)
            folders[:] = sorted(name for name in folders if not is_temporary(here / name))
            try:
                if MANIFEST in names and here.parent == root / CHECKPOINTS:
                    groups[here.relative_to(root).as_posix()] = (here / MANIFEST).read_bytes()
                    folders.clear()
                    continue
                for path in (here / name for name in names if not is_temporary(here / name)):
                    stat = path.stat()
                    files[path.relative_to(root).as_posix()] = (stat.st_size, stat.st_mtime_ns)
            except FileNotFoundError:
                # Retention renames a folder away while this one reads: the next sync sees what came of it.
                continue
        return files, groups

    def _upload_files(self, files: Mapping[str, tuple[int, int]]) -> None:
        for key, state in sorted(files.items()):
            if self._files.get(key) != state and self._upload(key):
                self._files[key] = state

    def _upload(self, key: str) -> bool:
        path = self._run.path / key
        try:
            self._remote.write(key, path.read_bytes())
        except FileNotFoundError:
            return False
        if key.startswith(_SPOOLED):
            path.unlink()
        return True

    def _upload_group(self, name: str) -> None:
        try:
            files = self._run.load(name)
            manifest = (self._run.path / name / MANIFEST).read_bytes()
        except (TornArtefact, FileNotFoundError):
            return
        if name in self._groups:
            self._delete_group(name)
        self._groups[name] = b""
        for file_name, data in files.items():
            self._remote.write(f"{name}/{file_name}", data)
        self._remote.write(f"{name}/{MANIFEST}", manifest)
        self._groups[name] = manifest

    def _is_whole(self, name: str) -> bool:
        try:
            self._run.load(name)
        except TornArtefact:
            return False
        return True

    def _delete_group(self, name: str) -> None:
        self._groups[name] = b""
        self._remote.delete(f"{name}/{MANIFEST}")
        for key in self._remote.list(f"{name}/"):
            self._remote.delete(key)
        del self._groups[name]


class Uploader:
    """Syncs a mirror in the background and once more at the end of its context; then the local copy goes.

    Where the last sync fails, the copy stays, and the error names it: a StorageError, unless the context ends by another error.
    """

    def __init__(self, mirror: RunMirror, folder: Path, *, wake: threading.Event, every_s: float) -> None:
        """`folder` is the local copy; a sync follows every `every_s`, and as soon as `wake` is set."""
        self._mirror = mirror
        self._folder = folder
        self._wake = wake
        self._every_s = every_s
        self._ended = False
        self._thread = threading.Thread(target=self._work, name="run upload", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._ended = True
        self._wake.set()
        kept = f"its local copy is kept: '{self._folder}'"
        if isinstance(error, KeyboardInterrupt):
            logger.error("interrupted: the store may lack what the run did last; %s", kept)
            return
        self._thread.join()
        try:
            self._mirror.sync()
        except (StorageError, UserError, LeaseLost) as failure:
            if error is None:
                raise StorageError(f"{failure}; the store lacks what the run did last; {kept}") from failure
            logger.error("%s; the store lacks what the run did last; %s", failure, kept)
        else:
            shutil.rmtree(self._folder)

    def _work(self) -> None:
        while True:
            self._wake.wait(self._every_s)
            self._wake.clear()
            if self._ended:
                return
            try:
                self._mirror.sync()
            except LeaseLost:
                return
            except (StorageError, UserError) as error:
                logger.warning("the store is behind, the upload will be tried again: %s", error)
