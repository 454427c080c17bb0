"""The exceptions and exit codes a run may end with; each message is complete without a traceback."""

from __future__ import annotations

from enum import IntEnum


class ExitCode(IntEnum):
    """Exit codes of every command; a job controller restarts on ``RESUMABLE`` and gives up on ``USER_ERROR``."""

    FINISHED = 0
    CRASH = 1
    USER_ERROR = 2
    RESUMABLE = 75


class UserError(ValueError):
    """The user's mistake: one line that quotes the offending key and value and says what is allowed."""


class RunFailure(RuntimeError):
    """The run cannot go on, for a reason that is neither the user's mistake nor a bug; the message is complete."""


class DeadlineExceeded(TimeoutError):
    """A bounded wait ran out; the message names what was waited for, for how long, and what is missing."""

    @classmethod
    def waiting_for(cls, what: str, *, seconds: float, missing: str) -> DeadlineExceeded:
        """The error for a wait on `what` that ran `seconds` and still lacked `missing`."""
        return cls(f"waited {seconds:g} s for {what}; missing: {missing}")


class StopRequested(Exception):
    """Somebody asked the run to stop; it may go on later from its last checkpoint."""
