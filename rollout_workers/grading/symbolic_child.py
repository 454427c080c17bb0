"""The program of a math-verify process: one JSON request a line on standard input, one JSON reply a line on standard output.

Invariant: it never outlives what it is for. It ends when its input ends, and the kernel ends it when one comparison takes longer
than its deadline and a grace time, even inside a computation that no Python code can interrupt and with nobody left to kill it.

Started by path (`symbolic.py`), so it imports nothing of this project. Replies: `{"status": "ready"}` or `{"status": "failed"}`
once, then `equal` or `different` for each request; `detail` says more.
"""

from __future__ import annotations

import json
import os
import resource
import signal
import sys
from collections.abc import Callable

GRACE_S = 2.0
"""The parent kills at the deadline; only without a parent does the kernel's timer, so much later, come first."""


def main() -> int:
    """Serves until the input ends. Takes the address space limit in bytes as its argument."""
    replies = os.fdopen(os.dup(sys.stdout.fileno()), "w", encoding="utf-8")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # what libraries print is no reply
    resource.setrlimit(resource.RLIMIT_AS, (int(sys.argv[1]), int(sys.argv[1])))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))

    def reply(status: str, detail: str = "") -> None:
        replies.write(json.dumps({"status": status, "detail": detail}) + "\n")
        replies.flush()

    try:
        compare = _comparer()
    except ImportError as error:
        reply("failed", f"{type(error).__name__}: {error}")
        return 1
    reply("ready")
    for line in sys.stdin:
        request = json.loads(line)
        signal.setitimer(signal.ITIMER_REAL, request["deadline_s"] + GRACE_S)
        reply(*compare(request["reference"], request["answer"]))
        signal.setitimer(signal.ITIMER_REAL, 0)
    return 0


def _comparer() -> Callable[[str, str], tuple[str, str]]:
    from math_verify import ExprExtractionConfig, LatexExtractionConfig, parse, verify

    targets = (LatexExtractionConfig(), ExprExtractionConfig())

    def read(formula: str) -> list[object]:
        # A time limit of the library is an alarm with a Python handler: it only works between bytecodes.
        line = formula.replace("\\$", "").replace("$", "").replace("\n", " ")
        return parse(f"${line}$", targets, fallback_mode="no_fallback", parsing_timeout=None)

    def compare(reference: str, answer: str) -> tuple[str, str]:
        expected, given = read(reference), read(answer)
        if not expected or not given:
            return "different", f"math-verify cannot read the {'answer' if expected else 'reference'}"
        # Not symmetric: the first argument is the reference, whose form decides how equations and intervals are compared.
        return "equal" if verify(expected, given, timeout_seconds=None) else "different", ""

    return compare


if __name__ == "__main__":
    raise SystemExit(main())
