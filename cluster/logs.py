"""Log lines of one process: one line each with time, level and logger, to stderr and optionally to a file.

On a terminal, lines and progress bars share one rich console (`console()`), so neither tears the other.
"""

from __future__ import annotations

import functools
import logging
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console

PACKAGES = ("cluster", "policy", "rollout_workers", "evaluation", "learner", "deploy", "__main__")
_FORMAT = "%(asctime)s %(levelname)s %(name)s: %(message)s"
_OWN = "_installed_by_setup_logging"


def get_logger(name: str) -> logging.Logger:
    """The logger of a module; pass ``__name__``."""
    return logging.getLogger(name)


@functools.cache
def console() -> Console:
    """The console on stderr that log lines and progress bars share."""
    from rich.console import Console

    return Console(stderr=True)


def wide_console() -> Console:
    """A console on stdout for result tables: as wide as the terminal, or 130 columns where there is none."""
    from rich.console import Console

    console = Console()
    return console if console.is_terminal else Console(width=130)


def setup_logging(*, verbose: bool = False, file: Path | None = None) -> None:
    """Send this project's lines from INFO (`verbose`: DEBUG) and everybody else's from WARNING to stderr and `file`.

    Calling it again replaces the handlers of the call before and leaves all others alone.
    """
    root = logging.getLogger()
    for handler in [handler for handler in root.handlers if getattr(handler, _OWN, False)]:
        root.removeHandler(handler)
        handler.close()
    handlers = [_terminal_handler() if sys.stderr.isatty() else _plain(logging.StreamHandler())]
    if file is not None:
        file.parent.mkdir(parents=True, exist_ok=True)
        handlers.append(_plain(logging.FileHandler(file, encoding="utf-8")))
    for handler in handlers:
        setattr(handler, _OWN, True)
        root.addHandler(handler)
    root.setLevel(logging.WARNING)
    for package in PACKAGES:
        logging.getLogger(package).setLevel(logging.DEBUG if verbose else logging.INFO)


def _plain(handler: logging.Handler) -> logging.Handler:
    handler.setFormatter(logging.Formatter(_FORMAT))
    return handler


def _terminal_handler() -> logging.Handler:
    from rich.logging import RichHandler

    handler = RichHandler(console=console(), show_path=False, markup=False, log_time_format="%H:%M:%S")
    handler.setFormatter(logging.Formatter("%(name)s: %(message)s"))
    return handler
