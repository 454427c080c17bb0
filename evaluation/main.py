"""Evaluates one policy file: `python -m evaluation.main POLICY.safetensors [key.path=value ...]`, options as of the pipeline.

Only the policy is decoded unless `--baselines` names others. A file in a run's directory has the run's configuration.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from cluster.errors import ExitCode
from evaluation.pipeline import make_parser, run_command
from evaluation.preparation import NO_BASELINES


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit code."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    files = [word for word in given if word.endswith(".safetensors") and "=" not in word]
    if len(files) != 1 and not {"-h", "--help"} & set(given):
        print(f"error: {len(files)} policy files given; allowed: exactly one FILE.safetensors", file=sys.stderr)
        return ExitCode.USER_ERROR
    return run_command(make_parser("evaluation.main", __doc__, baselines=NO_BASELINES), given)


if __name__ == "__main__":
    sys.exit(main())
