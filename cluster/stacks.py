"""Where a process stands when it takes too long: the stacks of all its threads in its log, and it goes on."""

from __future__ import annotations

import faulthandler
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TextIO

from cluster.logs import get_logger

logger = get_logger(__name__)


@contextmanager
def stacks_after(seconds: float, what: str, file: TextIO | None = None) -> Iterator[None]:
    """Writes the stacks to `file` (stderr) if the context is not left within `seconds`; one context at a time in a process.

    The interpreter's own watchdog writes them, so they come also where the process is stuck inside a library.
    """
    file = sys.__stderr__ if file is None else file
    if file is None:
        yield
        return
    logger.debug("stacks follow if %s takes longer than %g s", what, seconds)
    faulthandler.dump_traceback_later(seconds, file=file)
    try:
        yield
    finally:
        faulthandler.cancel_dump_traceback_later()
