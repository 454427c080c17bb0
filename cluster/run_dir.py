"""One run's directory: names every artefact, belongs to one config, and never shows a half-written group of files.

An artefact group is a folder whose ``manifest.json`` (size and sha256 of each file) is written last, inside a temporary
folder that one rename makes visible. What a crash leaves behind has a temporary name, which nothing lists and the
next `RunDir.begin` removes. Only the process that drives the run begins it; others construct `RunDir(path)`.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from cluster.config import dump_yaml, first_difference, load_yaml, to_dict
from cluster.errors import UserError
from cluster.lease import LEASE
from cluster.storage import (
    atomic_write,
    check_key,
    is_temporary,
    make_directory,
    sync_directory,
    temporary_beside,
    temporary_origin,
    unwritable_is_user_error,
    write_durably,
)
from cluster.yaml_files import parse_yaml

MANIFEST = "manifest.json"
CONFIG, METRICS, CHECKPOINTS, TRAJECTORIES = "config.yaml", "metrics.jsonl", "checkpoints", "trajectories"
SCHEMA = 1
_REPLACED = "replaced"


class TornArtefact(Exception):
    """A published group whose files are not what its manifest says."""

    def __init__(self, name: str, reason: str) -> None:
        super().__init__(name, reason)
        self.name = name
        self.reason = reason

    def __str__(self) -> str:
        return f"artefact '{self.name}' is torn: {self.reason}"


class RunDir:
    """The artefacts of one run below `path`."""

    def __init__(
        self, path: Path, *, location: str | None = None, on_publish: Callable[[], None] = lambda: None
    ) -> None:
        """`location` is what users know the directory as, where `path` is a copy; `on_publish` is called after each `publish`."""
        self.path = Path(path)
        self.location = location or str(path)
        self._on_publish = on_publish

    @property
    def config_path(self) -> Path:
        """The resolved config of the run; its presence makes a folder a run directory."""
        return self.path / CONFIG

    @property
    def metrics_path(self) -> Path:
        """One JSON line a step."""
        return self.path / METRICS

    @property
    def samples_path(self) -> Path:
        """Decoded samples, one JSON line each."""
        return self.path / "samples.jsonl"

    @property
    def log_path(self) -> Path:
        """The driver's log lines."""
        return self.path / "run.log"

    @property
    def checkpoints_path(self) -> Path:
        """Folder of the groups ``checkpoints/<name>``."""
        return self.path / CHECKPOINTS

    @property
    def evaluation_path(self) -> Path:
        """Folder of evaluation results."""
        return self.path / "evaluation"

    @property
    def plots_path(self) -> Path:
        """Folder of plots and reports."""
        return self.path / "plots"

    @property
    def trajectories_path(self) -> Path:
        """Folder of archived trajectories."""
        return self.path / TRAJECTORIES

    @classmethod
    def open(
        cls, path: Path, config: Mapping[str, Any], *, resume: bool | None = None, ignore: Sequence[str] = ()
    ) -> RunDir:
        """Starts a run at `path`, or goes on with the one there: `check_run`, then `begin`."""
        run = cls(path)
        with unwritable_is_user_error(run.path):
            run.check(config, resume=resume, ignore=ignore)
            run.begin(config)
        return run

    def check(self, config: Mapping[str, Any], *, resume: bool | None, ignore: Sequence[str] = ()) -> None:
        """`check_run` of what is there."""
        if self.path.exists() and not self.path.is_dir():
            raise UserError(f"run directory '{self.location}' is a file; allowed: a new or empty directory")
        held = load_yaml(self.config_path) if self.config_path.is_file() else None
        names = [path.name for path in self.path.iterdir() if not is_temporary(path)] if self.path.is_dir() else []
        check_run(held, config, names, where=self.location, resume=resume, ignore=ignore)

    def begin(self, config: Mapping[str, Any]) -> None:
        """Writes the config of a new run, and clears away what a crash left; only for the process that drives the run."""
        if not self.config_path.is_file():
            make_directory(self.path)
            atomic_write(self.config_path, dump_yaml(to_dict(config)).encode())
        self._recover()

    def publish(self, name: str, files: Mapping[str, bytes]) -> Path:
        """Make the group `name` hold exactly `files` (relative name to content), all at once; returns its folder."""
        target = self.path / check_key(name)
        manifest = _manifest(files)
        if target.is_dir() and self._holds(name, manifest):
            return target
        with unwritable_is_user_error(target):
            make_directory(target.parent)
            fresh = temporary_beside(target)
            try:
                _fill(fresh, files, manifest)
                _swap(fresh, target)
            except OSError:
                shutil.rmtree(fresh, ignore_errors=True)
                raise
        self._on_publish()
        return target

    def load(self, name: str) -> dict[str, bytes]:
        """The files of the group `name`, verified; raises TornArtefact, or FileNotFoundError when there is none."""
        folder = self.path / check_key(name)
        if not folder.is_dir():
            raise FileNotFoundError(f"no artefact '{name}' in run directory '{self.location}'")
        entries = self._entries(name)
        files: dict[str, bytes] = {}
        for file_name, entry in entries.items():
            self._check_size(name, file_name, entry["size"])
            data = (folder / file_name).read_bytes()
            if hashlib.sha256(data).hexdigest() != entry["sha256"]:
                raise TornArtefact(name, f"{file_name} does not have the sha256 of the manifest")
            files[file_name] = data
        return files

    def published(self, prefix: str) -> list[str]:
        """Names of groups that begin with `prefix`, torn ones too, in order with numbers compared as numbers.

        Without a slash `prefix` is a folder: ``checkpoints`` means ``checkpoints/``.
        """
        prefix = prefix if "/" in prefix else f"{prefix}/"
        folder, _, start = prefix.rpartition("/")
        parent = self.path / check_key(folder)
        if not parent.is_dir():
            return []
        found = [path for path in parent.iterdir() if path.is_dir() and path.name.startswith(start)]
        return sorted((f"{folder}/{path.name}" for path in found if not is_temporary(path)), key=_natural_order)

    def latest(self, prefix: str) -> tuple[str, dict[str, bytes], list[str]] | None:
        """The newest good group: name, files and why newer ones were skipped; None when no group is good."""
        skipped: list[str] = []
        for name in reversed(self.published(prefix)):
            try:
                return name, self.load(name), skipped
            except TornArtefact as error:
                skipped.append(str(error))
        return None

    def retain(self, prefix: str, keep: int, *, always: Sequence[str] = ()) -> None:
        """Delete the groups older than the newest `keep` whole ones, but none named in `always`."""
        if keep < 1:
            raise ValueError(f"keep is {keep}; at least one group stays")
        whole = 0
        for name in reversed(self.published(prefix)):
            if whole >= keep and name not in always:
                doomed = temporary_beside(self.path / name, kind="old")
                (self.path / name).rename(doomed)
                shutil.rmtree(doomed)
            elif self._is_whole(name):
                whole += 1

    def _recover(self) -> None:
        """Put back a group whose replacement never arrived, and remove what crashed writes left."""
        for leftover in [path for path in self.path.rglob(".*") if is_temporary(path)]:
            origin = temporary_origin(leftover)
            if origin is not None and origin[1] == _REPLACED and not origin[0].exists():
                leftover.rename(origin[0])
            elif leftover.is_dir():
                shutil.rmtree(leftover)
            else:
                leftover.unlink(missing_ok=True)

    def _entries(self, name: str) -> dict[str, Any]:
        """The manifest's entries, its own form checked."""
        try:
            manifest = json.loads((self.path / name / MANIFEST).read_bytes())
        except FileNotFoundError as error:
            raise TornArtefact(name, f"{MANIFEST} is missing") from error
        except ValueError as error:
            raise TornArtefact(name, f"{MANIFEST} is not JSON") from error
        schema = manifest.get("schema") if isinstance(manifest, dict) else None
        if schema != SCHEMA:
            raise TornArtefact(name, f"{MANIFEST} has schema {schema!r}, this version reads {SCHEMA}")
        entries = manifest.get("files")
        if not isinstance(entries, dict) or not all(
            isinstance(entry, dict) and {"size", "sha256"} <= entry.keys() for entry in entries.values()
        ):
            raise TornArtefact(name, f"{MANIFEST} lists no files")
        return entries

    def _check_size(self, name: str, file_name: str, size: int) -> None:
        path = self.path / name / file_name
        if not path.is_file():
            raise TornArtefact(name, f"{file_name} is missing")
        if path.stat().st_size != size:
            raise TornArtefact(name, f"{file_name} has {path.stat().st_size} bytes, the manifest says {size}")

    def _is_whole(self, name: str) -> bool:
        """Whether the manifest and the sizes are right; contents are not read."""
        try:
            for file_name, entry in self._entries(name).items():
                self._check_size(name, file_name, entry["size"])
        except TornArtefact:
            return False
        return True

    def _holds(self, name: str, manifest: bytes) -> bool:
        try:
            return _manifest(self.load(name)) == manifest
        except TornArtefact:
            return False


def check_run(
    held: Mapping[str, Any] | None,
    config: Mapping[str, Any],
    names: Iterable[str],
    *,
    where: str,
    resume: bool | None,
    ignore: Sequence[str] = (),
) -> None:
    """Raises a UserError unless the run of `config` may be started, or gone on with, at `where`; changes nothing.

    Args:
        held: the config that is there; None for none.
        config: the run's own.
        names: of the files and folders that are there.
        where: for messages.
        resume: True for a run that must be there, False for one that must not have gone on yet, None for either.
        ignore: dotted config keys that do not decide results, so they may differ.
    """
    if held is None:
        if resume:
            raise UserError(f"run directory '{where}' holds no run to resume; allowed: the directory of a run")
        if others := sorted(set(names) - {LEASE}):
            raise UserError(
                f"run directory '{where}' is not empty and holds no run (it has {others[0]!r}); "
                "nothing was changed; allowed: a new or empty directory"
            )
        return
    plain = parse_yaml(dump_yaml(to_dict(config)), source=where)
    difference = first_difference(_without(held, ignore), _without(plain, ignore))
    if difference is not None:
        raise UserError(
            f"run directory '{where}' holds a run with another config: {difference} (there -> now); "
            "nothing was changed; allowed: the same config, or another run_dir"
        )
    if resume is False and {METRICS, CHECKPOINTS} & set(names):
        raise UserError(
            f"run directory '{where}' already holds this run; nothing was changed; "
            "allowed: --resume to go on with it, or another run_dir"
        )


def _fill(fresh: Path, files: Mapping[str, bytes], manifest: bytes) -> None:
    """Write a group into the new folder `fresh`, durably, its manifest last."""
    fresh.mkdir()
    for file_name, data in files.items():
        (fresh / file_name).parent.mkdir(parents=True, exist_ok=True)
        write_durably(fresh / file_name, data)
    for folder in (path for path in fresh.rglob("*") if path.is_dir()):
        sync_directory(folder)
    sync_directory(fresh)
    write_durably(fresh / MANIFEST, manifest)
    sync_directory(fresh)


def _swap(fresh: Path, target: Path) -> None:
    """Rename `fresh` to `target`; a group there before is put back by `RunDir.open` after a crash in between."""
    replaced = temporary_beside(target, kind=_REPLACED)
    if target.exists():
        target.rename(replaced)
    os.rename(fresh, target)
    sync_directory(target.parent)
    if replaced.exists():
        shutil.rmtree(replaced)


def _manifest(files: Mapping[str, bytes]) -> bytes:
    if MANIFEST in files:
        raise ValueError(f"{MANIFEST} is written by publish itself")
    entries = {
        check_key(file_name): {"size": len(data), "sha256": hashlib.sha256(data).hexdigest()}
        for file_name, data in sorted(files.items())
    }
    return json.dumps({"schema": SCHEMA, "files": entries}, indent=1).encode()


def _natural_order(name: str) -> list[tuple[int, str]]:
    """Sort key under which ``step-1000000`` follows ``step-999999``."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", name)]


def _without(config: Mapping[str, Any], dotted_keys: Sequence[str]) -> dict[str, Any]:
    """A copy of `config` that lacks `dotted_keys`."""
    result = dict(config)
    for dotted in dotted_keys:
        name, _, rest = dotted.partition(".")
        if not rest:
            result.pop(name, None)
        elif isinstance(result.get(name), Mapping):
            result[name] = _without(result[name], [rest])
    return result
