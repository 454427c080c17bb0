"""The settings that a policy file holds, checked as those of a configuration are: files come from anywhere.

This module imports no torch.
"""

from __future__ import annotations

import math
from dataclasses import MISSING, fields
from enum import StrEnum
from types import UnionType
from typing import Any, Literal, get_args, get_origin, get_type_hints

from policy.config import BackboneShape, PolicyConfig


def stored_config(settings: Any) -> PolicyConfig:
    """The settings out of JSON; those that are not there yet take their defaults. A ValueError for what is no policy."""
    values = _checked(PolicyConfig, settings, "policy")
    if values.get("backbone") is not None:
        values["backbone"] = BackboneShape(**_checked(BackboneShape, values["backbone"], "policy.backbone"))
        values["backbone"].validate("policy.backbone")
    config = PolicyConfig(**values)
    config.validate("policy")
    if config.reads_hidden and config.backbone is None:
        raise ValueError(f"policy.backbone is null; needed: the shape of the dLLM with network {config.network!r}")
    return config


def _checked(kind: type[PolicyConfig] | type[BackboneShape], settings: Any, where: str) -> dict[str, Any]:
    """The settings as keyword arguments; a ValueError for one that `kind` does not have, or of another type or range."""
    if not isinstance(settings, dict):
        raise ValueError(f"{where} settings are {settings!r}; needed: a mapping of names to values")
    hints, known = get_type_hints(kind), {field.name: field for field in fields(kind)}
    if unknown := sorted(set(settings) - set(known)):
        raise ValueError(f"{where} settings {unknown} are unknown; it was written by another version")
    if missing := [name for name, field in known.items() if field.default is MISSING and name not in settings]:
        raise ValueError(f"{where} settings {missing} are missing")
    for name, value in settings.items():
        if not _fits(value, hints[name]):
            raise ValueError(f"{where}.{name} is {value!r}; allowed: {_described(hints[name])}")
        if isinstance(value, int | float):
            bounds = known[name].metadata
            if "minimum" in bounds and not value >= bounds["minimum"]:
                raise ValueError(f"{where}.{name} is {value!r}; allowed: at least {bounds['minimum']}")
            if "above" in bounds and not value > bounds["above"]:
                raise ValueError(f"{where}.{name} is {value!r}; allowed: above {bounds['above']:g}")
    return settings


def _fits(value: Any, hint: Any) -> bool:
    """Whether a value out of JSON is one of the type of a setting."""
    if get_origin(hint) is Literal:
        return value in get_args(hint)
    if isinstance(hint, UnionType):
        return any(_fits(value, each) for each in get_args(hint))
    if isinstance(hint, type) and issubclass(hint, StrEnum):
        return value in set(hint)
    if hint is BackboneShape:
        return isinstance(value, dict)
    if hint is float:
        return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    return isinstance(value, hint) and (hint is bool or not isinstance(value, bool))


def _described(hint: Any) -> str:
    if get_origin(hint) is Literal:
        return ", ".join(map(repr, get_args(hint)))
    if isinstance(hint, type) and issubclass(hint, StrEnum):
        return ", ".join(repr(str(each)) for each in hint)
    if hint is float:
        return "a finite number"
    return str(hint) if isinstance(hint, UnionType) else hint.__name__
