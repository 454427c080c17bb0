"""When to try again: exponential backoff with jitter, under one total deadline."""

from __future__ import annotations

import itertools
import random
import time
from collections.abc import Callable, Iterator

_JITTER = random.SystemRandom()
"""Of its own: seeded generators decide results, pauses do not."""


def attempts(
    deadline_s: float,
    *,
    first_s: float = 0.2,
    longest_s: float = 10.0,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
    uniform: Callable[[float, float], float] = _JITTER.uniform,
) -> Iterator[int]:
    """Numbers of attempts from 1, with a pause before each but the first; ends when the next would begin after `deadline_s`.

    The pause after attempt n is drawn from the upper half of ``min(longest_s, first_s * 2 ** (n - 1))``.
    """
    end = clock() + deadline_s
    for number in itertools.count(1):
        yield number
        bound = min(longest_s, first_s * 2 ** min(number - 1, 30))
        pause = uniform(bound / 2, bound)
        if clock() + pause >= end:
            return
        sleep(pause)
