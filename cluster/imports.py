"""Imports of large libraries without the garbage collector: looking through what they make, which stays, takes a third of their
time."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def importing() -> Iterator[None]:
    """Around imports of torch and the like: nothing is collected meanwhile, and what is there at the end never is."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        if was_enabled:
            gc.enable()
