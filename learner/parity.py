"""`parity: true` at the top of a configuration: those quirks of the reference release of arXiv 2512.09106 that are keys.

It expands into these keys, over the file's own and beneath the overrides of the command line; the resolved configuration does not
say where they came from. docs/presets.md lists them, and what no key brings back. Imports neither torch nor Ray.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from cluster.errors import UserError
from rollout_workers.hosting import task_of
from rollout_workers.tasks import task_settings

KEY = "parity"
_POLICY: Mapping[str, Any] = {
    "confidence_features": "raw",
    "time_embedding": "legacy",
    "scope": "canvas",
    "see_block": False,
}
_NETWORKS = ("dit_confidence", "dit_hidden")
_DISTRIBUTIONS = {"bernoulli": "bernoulli", "bernoulli_argmax": "bernoulli", "dpls": "dpls"}
"""What the release trains with in the place of each; it evaluates with a forced argmax, which is no part of its likelihood."""


def is_set(value: Any) -> bool:
    """Whether parity is asked for; a UserError for anything but true and false."""
    if not isinstance(value, bool):
        raise UserError(f"config key '{KEY}' is {value!r} ({type(value).__name__}); allowed: true, false")
    return value


def quirks(config: Mapping[str, Any]) -> dict[str, Any]:
    """What parity sets in a run with the (unchecked) settings `config`; a UserError where the release has no such policy."""
    policy, task = config.get("policy"), config.get("task", "arithmetic")
    policy = policy if isinstance(policy, Mapping) else {}
    network, distribution = policy.get("network", _NETWORKS[0]), policy.get("distribution", "bernoulli")
    if network not in _NETWORKS:
        raise _refused("network", network, _NETWORKS)
    if distribution not in _DISTRIBUTIONS:
        raise _refused("distribution", distribution, tuple(_DISTRIBUTIONS))
    names = {task_of(name) for name in ([task] if isinstance(task, str) else task) if isinstance(name, str)}
    graded = sorted(name for name in names if KEY in task_settings(name))
    trained = _DISTRIBUTIONS[distribution]
    ordered = {"dpls_likelihood": "order"} if trained == "dpls" else {}
    return {
        "policy": {**_POLICY, "distribution": trained, **ordered},
        "evaluation": {"inference": {"forced_argmax": trained == "bernoulli"}},
        "task_settings": {name: {KEY: True} for name in graded},
    }


def _refused(key: str, value: Any, allowed: tuple[str, ...]) -> UserError:
    known = ", ".join(map(repr, allowed))
    return UserError(
        f"config key '{KEY}' is true, but the reference release has no policy.{key} {value!r}; allowed: {known}"
    )
