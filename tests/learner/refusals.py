"""What the command line answers to mistakes."""

from __future__ import annotations

import pytest

from cluster.errors import UserError
from learner.main import resolve


def refusal(*settings: str) -> str:
    """The one line with which these settings are refused."""
    with pytest.raises(UserError) as caught:
        resolve(settings)
    message = str(caught.value)
    assert "\n" not in message
    return message
