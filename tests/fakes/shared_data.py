"""Real data files that may lie beside the checkout."""

from __future__ import annotations

from pathlib import Path

import pytest

_FOLDER = Path(__file__).resolve().parents[2].parent / "shared" / "data"


def shared_data(name: str) -> Path:
    """The file `name`; skips the test when it is not there."""
    path = _FOLDER / name
    if not path.exists():
        pytest.skip(f"the data file {name} is not beside this checkout ({_FOLDER})")
    return path
