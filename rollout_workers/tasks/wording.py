r"""How questions with a reasoned answer are put: the published system texts, worked examples, and the prefill.

The wordings are settings of published results (arXiv 2512.09106 and its code): a changed character changes what is measured.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

PAPER_TRAINING = "paper_training"
PAPER_EVALUATION = "paper_evaluation"

REASONING_FORMAT = "\nRespond in the following format:\n<reasoning>\n...\n</reasoning>\n<answer>\n...\n</answer>\n"
MATH_EXPERT = (
    "You are a math expert. You will be given a question to solve. Solve it step by step. "
    "Wrap the final answer in a \\boxed{}."
)
BOXED_FORMAT = (
    f"{MATH_EXPERT}\nRespond in the following format:\n<reasoning>\nYour reasoning here\n</reasoning>\n"
    "<answer>\n\\boxed{...}\n</answer>"
)


@dataclass(frozen=True, slots=True)
class Worked:
    """A question with its answer, as it is shown to the model."""

    question: str
    reasoning: str
    answer: str


@dataclass(frozen=True, slots=True)
class Wording:
    """One way to put a question."""

    system: str
    """What precedes the question in the user's turn."""
    is_boxed: bool
    r"""Whether worked answers stand in a `\boxed{}` between the answer tags."""
    prefill: str = ""

    def prompt(self, question: str, demonstrations: Sequence[Worked] = ()) -> str:
        """The user's turn; without demonstrations, exactly the published text."""
        if not demonstrations:
            return f"{self.system}\n\n{question}"
        shown = [f"Question: {each.question}\nAnswer:\n{self.solution(each)}" for each in demonstrations]
        return "\n\n".join([self.system, *shown, f"Question: {question}\nAnswer:\n"])

    def solution(self, worked: Worked) -> str:
        """The whole answer in the format that the system text asks for."""
        answer = f"\\boxed{{{worked.answer}}}" if self.is_boxed else worked.answer
        return f"<reasoning>\n{worked.reasoning}\n</reasoning>\n<answer>\n{answer}\n</answer>"

    def continuation(self, worked: Worked) -> str:
        """What the model still has to write of `solution` after the prefill."""
        return self.solution(worked).removeprefix(self.prefill)
