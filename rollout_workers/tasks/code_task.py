"""Tasks answered by a program: what the model wrote is checked by tests in a sandbox.

Invariant: nothing that a model wrote runs outside the sandbox, and a sandbox that this machine refuses stops the run before it
starts.
"""

from __future__ import annotations

import math
import os
from abc import abstractmethod

from rollout_workers.config import TaskConfig
from rollout_workers.grading.answers import Grade
from rollout_workers.grading.code import CodeCheck, run_check
from rollout_workers.grading.limits import SandboxLimits
from rollout_workers.grading.sandbox import Sandbox, SandboxMode, open_sandbox
from rollout_workers.tasks.base import Example
from rollout_workers.tasks.dataset import DatasetTask

MAX_GRADERS = 16
"""Programs that run at a time, on machines with many processors."""
FENCE = "```"


class CodeTask(DatasetTask):
    """The common part; a task adds what its tests are."""

    settings = frozenset({"train", "test", "revision", "prompt", "sandbox", "grade_deadline_s"})

    def __init__(self, config: TaskConfig) -> None:
        super().__init__(config)
        self.num_graders = min(os.cpu_count() or 1, MAX_GRADERS)

    def prepare(self) -> None:
        """Opens the sandbox and tries it; a SandboxError says why this machine refuses it."""
        self._sandbox()

    def grade(self, example: Example, text: str) -> Grade:
        return run_check(self.check(example, text), sandbox=self._sandbox())

    @abstractmethod
    def check(self, example: Example, text: str) -> CodeCheck:
        """The program in `text`, prefill included, and the tests that it must pass."""

    def _sandbox(self) -> Sandbox:
        seconds = self.config.grade_deadline_s
        limits = SandboxLimits(wall_s=seconds, cpu_s=math.ceil(seconds))
        return open_sandbox(SandboxMode(self.config.sandbox), limits)


def fenced(code: str) -> str:
    """`code` as a model ends a block that the prefill began."""
    return f"{code.rstrip()}\n{FENCE}"
