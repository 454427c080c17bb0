"""A symbolic checker that answers as told and remembers what it was asked."""

from __future__ import annotations

from rollout_workers.grading.symbolic import Comparison, Verdict


class FakeChecker:
    """Always finds `verdict`."""

    def __init__(self, verdict: Verdict = Verdict.EQUAL, detail: str = "") -> None:
        self._comparison = Comparison(verdict, detail)
        self.asked: list[tuple[str, str, float]] = []

    def compare(self, reference: str, answer: str, *, deadline_s: float) -> Comparison:
        self.asked.append((reference, answer, deadline_s))
        return self._comparison
