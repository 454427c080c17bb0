"""Trains an unmasking policy, compares it with every heuristic, and says what came out.

    python -m learner.main [PRESET|FILE.yaml] [key.path=value ...] [--dry-run] [--resume[=auto|always|never]]

Exit codes: 0 finished, 2 a mistake in the command or its files, 75 stopped with a checkpoint (the same command goes on), 1 any
other failure.
"""

from __future__ import annotations

import argparse
import errno
import signal
import sys
from collections.abc import Mapping, Sequence
from dataclasses import is_dataclass
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any, Self, get_args, get_origin, get_type_hints

from cluster.config import apply_overrides, build, dump_yaml, load_yaml, to_dict
from cluster.errors import DeadlineExceeded, ExitCode, RunFailure, UserError
from cluster.imports import importing
from learner import parity
from learner.config import RunConfig

DEFAULT_PRESET = "tiny"
EXTENDS = "extends"
"""Top-level key of a file: the preset or the file that it is laid over."""
_RESUME = {"auto": None, "always": True, "never": False}
_PRESET_FOLDER = Path(__file__).parent / "presets"


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m learner.main", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("settings", nargs="*", metavar="PRESET|FILE|key=value", help=f"presets: {', '.join(presets())}")
    parser.add_argument("--dry-run", action="store_true", help="print the resolved config and stop")
    parser.add_argument(
        "--resume",
        nargs="?",
        const="always",
        default="auto",
        choices=tuple(_RESUME),
        help="auto (the default): go on with the run in run_dir where there is one, else start it; always (also --resume "
        "alone): there must be one; never: there must be none",
    )
    given = sys.argv[1:] if arguments is None else arguments
    # Alone, the option must not take the setting after it for its value.
    options = parser.parse_args(["--resume=always" if each == "--resume" else each for each in given])
    try:
        config = resolve(options.settings)
        if options.dry_run:
            from learner.describe import derived_arithmetic

            derived = derived_arithmetic(config)
            print(dump_yaml(to_dict(config)), end="")
            print(derived)
            return ExitCode.FINISHED
        if sys.stderr.isatty():
            print("loading torch, transformers and Ray", file=sys.stderr)
        with importing():
            from learner.run import run

        with _StopFlag() as stop:
            return run(config, resume=_RESUME[options.resume], should_stop=stop, on_started=stop.listen)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return ExitCode.USER_ERROR
    except (DeadlineExceeded, RunFailure) as error:
        print(f"error: {error}", file=sys.stderr)
        return ExitCode.CRASH
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        where = f" to '{error.filename}'" if error.filename else ""
        print(
            f"error: cannot write{where}: {error.strerror}; the checkpoints before it are whole, and the same command goes on "
            "from the newest once there is room",
            file=sys.stderr,
        )
        return ExitCode.CRASH


def presets() -> list[str]:
    """Names of the shipped run configurations."""
    return sorted(path.stem for path in _PRESET_FOLDER.glob("*.yaml"))


def resolve(settings: Sequence[str]) -> RunConfig:
    """The run configuration of a command line: a preset or a file, then its parity, then overrides from left to right."""
    sources = [setting for setting in settings if "=" not in setting]
    overrides = [setting for setting in settings if "=" in setting]
    if len(sources) > 1:
        raise UserError(f"two configurations given, {sources[0]!r} and {sources[1]!r}; allowed: one preset or file")
    source = sources[0] if sources else DEFAULT_PRESET
    base = _load(source)
    whole = apply_overrides(base, overrides)
    if parity.is_set(whole.pop(parity.KEY, False)):
        whole = apply_overrides(_lay_over(base, parity.quirks(whole), RunConfig), overrides)
        del whole[parity.KEY]
    return build(RunConfig, whole)


def _load(source: str) -> dict[str, Any]:
    """The mapping of a preset or a file, laid over the base that it `extends`, which may extend another."""
    if source not in presets() and not source.endswith((".yaml", ".yml")) and not Path(source).exists():
        raise UserError(f"unknown preset {source!r}; allowed: {', '.join(presets())}, or a .yaml file")
    path = _locate(source, Path())
    chain, layers = [path], [load_yaml(path)]
    while EXTENDS in layers[-1]:
        path = _base(layers[-1].pop(EXTENDS), chain)
        chain.append(path)
        layers.append(load_yaml(path))
    merged: dict[str, Any] = {}
    for layer in reversed(layers):
        merged = _lay_over(merged, layer, RunConfig)
    return merged


def _locate(source: str, folder: Path) -> Path:
    """The file of a preset, or the one at a path relative to `folder`."""
    return _PRESET_FOLDER / f"{source}.yaml" if source in presets() else folder / source


def _base(name: object, chain: Sequence[Path]) -> Path:
    """The file that the last one of `chain` extends; a UserError for none, and for one that is in the chain already."""
    where = f"config key '{EXTENDS}' of '{chain[-1]}' is {name!r}"
    path = _locate(name, chain[-1].parent) if isinstance(name, str) else None
    if path is None or not path.is_file():
        raise UserError(
            f"{where}; allowed: {', '.join(presets())}, or a .yaml file by its path from '{chain[-1].parent}'"
        )
    if path.resolve() in [each.resolve() for each in chain]:
        circle = " -> ".join(each.name for each in (*chain, path))
        raise UserError(f"{where}, which closes a circle ({circle}); allowed: a base that does not lead back here")
    return path


def _lay_over(base: Any, top: Any, hint: Any) -> Any:
    """`top` over `base`, both meant for `hint`: sections key by key, anything else whole, a mapping of numbers or lists too."""
    sections = [kind for kind in (hint, *get_args(hint)) if is_dataclass(kind)]
    if not (sections and isinstance(base, Mapping) and isinstance(top, Mapping)):
        return top
    is_named = get_origin(hint) is dict
    hints = {} if is_named else get_type_hints(sections[0])
    laid = {key: _lay_over(base.get(key), top[key], sections[0] if is_named else hints.get(key)) for key in top}
    return {**base, **laid}


class _StopFlag:
    """Set by the first SIGINT or SIGTERM in its context; a second SIGINT interrupts at once."""

    def __init__(self) -> None:
        self._is_set = False
        self._before: dict[signal.Signals, Any] = {}

    def __call__(self) -> bool:
        return self._is_set

    def __enter__(self) -> Self:
        self._before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
        self.listen()
        return self

    def listen(self) -> None:
        """Takes the signals; again once Ray runs, whose driver puts a handler of its own on SIGTERM that ends the process."""
        for number in self._before:
            signal.signal(number, self._handle)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self._is_set and number == signal.SIGINT:
            raise KeyboardInterrupt
        self._is_set = True
        print(f"\n{signal.Signals(number).name}: saving a checkpoint, then stopping", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
