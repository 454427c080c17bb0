from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path

import pytest

from cluster.logs import PACKAGES, get_logger, setup_logging


@pytest.fixture(autouse=True)
def restored_logging() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    yield
    for handler in [handler for handler in root.handlers if handler not in handlers]:
        root.removeHandler(handler)
        handler.close()
    root.setLevel(level)
    for package in PACKAGES:
        logging.getLogger(package).setLevel(logging.NOTSET)


def test_one_line_a_message_and_no_duplicates_after_a_second_setup(tmp_path: Path) -> None:
    path = tmp_path / "logs" / "run.log"
    setup_logging(verbose=False, file=path)
    setup_logging(verbose=False, file=path)
    get_logger("learner.loop").info("step %d", 3)
    get_logger("learner.loop").debug("hidden")
    get_logger("urllib3").info("hidden")
    get_logger("urllib3").warning("shown")
    lines = path.read_text().splitlines()
    assert [line.split(" ", 2)[2] for line in lines] == ["INFO learner.loop: step 3", "WARNING urllib3: shown"]


def test_verbose_shows_debug_of_this_project_only(tmp_path: Path) -> None:
    path = tmp_path / "run.log"
    setup_logging(verbose=True, file=path)
    get_logger("cluster.storage").debug("shown")
    get_logger("urllib3").debug("hidden")
    assert "shown" in path.read_text()
    assert "hidden" not in path.read_text()
