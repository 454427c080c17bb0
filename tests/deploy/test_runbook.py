"""The runbook: each failure has its four parts, and what reproduces it exists."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

from rollout_workers.exported import EXPORTED
from tests.deploy.test_monitoring import panels

ROOT = Path(__file__).resolve().parents[2]
TEXT = (ROOT / "deploy" / "RUNBOOK.md").read_text()
FAILURES = {part.partition("\n")[0]: part for part in re.split(r"^## ", TEXT, flags=re.MULTILINE)[1:]}


def names(path: Path) -> set[str]:
    """Tests of a file, as pytest names them."""
    found = set()
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.FunctionDef):
            found.add(node.name)
        if isinstance(node, ast.ClassDef):
            found |= {f"{node.name}::{each.name}" for each in node.body if isinstance(each, ast.FunctionDef)}
    return found


def test_there_are_enough():
    assert len(FAILURES) >= 15


@pytest.mark.parametrize("failure", FAILURES)
def test_a_failure_has_its_parts(failure):
    assert re.findall(r"^\* \*\*(.*?)\*\*: ", FAILURES[failure], re.MULTILINE) == [
        "Symptom",
        "Look at",
        "Do",
        "Reproduce",
    ]
    _, _, reproduce = FAILURES[failure].partition("**Reproduce**: ")
    tests = re.findall(r"(tests/[\w/]+\.py)::([\w:]+)", reproduce)
    assert tests or re.match(r"`python -m (learner|evaluation|tests)\.", reproduce)
    for file, name in tests:
        assert name in names(ROOT / file), f"{file}::{name}"


def test_metrics_and_panels_that_are_named_exist():
    known = {metric.name for metric in EXPORTED}
    assert set(re.findall(r"`(dllm_\w+)`", TEXT)) <= known
    titles = {panel["title"] for panel in panels()}
    looked_at = " ".join(re.findall(r"\*\*Look at\*\*:(.*?)\n\* \*\*Do", TEXT, re.DOTALL))
    for title in re.findall(r"(?<!\*)\*([A-Z][\w\s-]+?)\*(?!\*)", looked_at):
        title = " ".join(title.split())
        assert any(each.startswith(title) for each in titles) or title in ("Learning",), title
