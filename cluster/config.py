"""Config sections: frozen dataclasses beside the code that reads them, built from plain mappings.

What `build` returns has only declared keys, declared types and values in range; anything else is a `UserError` that
quotes the dotted key and its value and says what is allowed. Importing this needs neither torch nor ray.
"""

from __future__ import annotations

import dataclasses
import difflib
import math
import types
import typing
from collections.abc import Mapping, Sequence
from enum import Enum, StrEnum
from typing import Any, TypeVar

from cluster.errors import UserError
from cluster.yaml_files import dump_yaml, load_yaml, parse_value

__all__ = ["apply_overrides", "build", "dump_yaml", "first_difference", "load_yaml", "merge", "setting", "to_dict"]

Section = TypeVar("Section")
_LIMITS = "limits"
_ABSENT = object()


@dataclasses.dataclass(frozen=True)
class Limits:
    """What one setting allows beyond its type; on lists and mappings the limits hold for each element."""

    minimum: float | None = None
    maximum: float | None = None
    above: float | None = None
    below: float | None = None
    choices: tuple[Any, ...] | None = None

    def allow(self, value: Any) -> bool:
        """Whether `value`, already of the right type, lies within."""
        if self.choices is not None and value not in self.choices:
            return False
        return (
            (self.minimum is None or value >= self.minimum)
            and (self.maximum is None or value <= self.maximum)
            and (self.above is None or value > self.above)
            and (self.below is None or value < self.below)
        )

    def describe(self, noun: str) -> str:
        """`noun` with its limits, as error messages say it: ``an integer >= 2``."""
        if self.choices is not None:
            return _one_of(self.choices)
        bounds = ((">=", self.minimum), (">", self.above), ("<=", self.maximum), ("<", self.below))
        return " ".join([noun, " and ".join(f"{sign} {bound}" for sign, bound in bounds if bound is not None)]).strip()


_NO_LIMITS = Limits()


def setting(
    default: Any = dataclasses.MISSING,
    *,
    help: str = "",
    minimum: float | None = None,
    maximum: float | None = None,
    above: float | None = None,
    below: float | None = None,
    choices: Sequence[Any] | None = None,
) -> Any:
    """A dataclass field with its help text and limits; without `default` the key is required."""
    limits = Limits(minimum, maximum, above, below, None if choices is None else tuple(choices))
    metadata = {"help": help, _LIMITS: limits}
    if isinstance(default, list | dict | set):
        return dataclasses.field(default_factory=default.copy, metadata=metadata)
    if dataclasses.is_dataclass(default) and default.__hash__ is None:
        return dataclasses.field(default_factory=lambda: default, metadata=metadata)
    return dataclasses.field(default=default, metadata=metadata)


def build(cls: type[Section], data: Mapping[str, Any], *, where: str = "") -> Section:
    """The section `cls` with the values of `data`; `where` is the dotted key of the section itself.

    A section may define ``validate(self, where: str) -> None`` for checks across fields; these run once everything
    is built, innermost first. Raises UserError.
    """
    section = _build_section(cls, data, where=where, root=(cls, where))
    _validate(section, where)
    return section


def to_dict(config: Any) -> Any:
    """Plain YAML and JSON values: sections as mappings in declared order, tuples as lists, enums as their values."""
    if dataclasses.is_dataclass(config) and not isinstance(config, type):
        return {field.name: to_dict(getattr(config, field.name)) for field in dataclasses.fields(config)}
    if isinstance(config, Mapping):
        return {key: to_dict(value) for key, value in config.items()}
    if isinstance(config, list | tuple):
        return [to_dict(value) for value in config]
    return config.value if isinstance(config, Enum) else config


def merge(base: Mapping[str, Any], top: Mapping[str, Any]) -> dict[str, Any]:
    """A new mapping: `top` over `base`, mappings merged key by key, any other value of `top` replacing."""
    merged = dict(base)
    for key, value in top.items():
        below = merged.get(key)
        if isinstance(value, Mapping):
            merged[key] = merge(below if isinstance(below, Mapping) else {}, value)
        else:
            merged[key] = value
    return merged


def apply_overrides(data: Mapping[str, Any], overrides: Sequence[str]) -> dict[str, Any]:
    """A new mapping with each ``a.b=value`` set, later ones winning; values are YAML scalars or flow collections."""
    result = merge({}, data)
    for override in overrides:
        dotted, equals, text = override.partition("=")
        names = dotted.strip().split(".")
        if not equals or not all(name and not name.isspace() for name in names):
            raise UserError(f"config override {override!r} is malformed; allowed: key.path=value")
        section = result
        for depth, name in enumerate(names[:-1], start=1):
            inner = section.setdefault(name, {})
            if not isinstance(inner, dict):
                taken = ".".join(names[:depth])
                raise UserError(f"config override {override!r}: '{taken}' is {_show(inner)}; allowed: a section there")
            section = inner
        section[names[-1]] = parse_value(text, source=f"config override {override!r}")
    return result


def first_difference(a: Any, b: Any, *, where: str = "") -> str | None:
    """The first dotted key whose values differ, as ``'key': value in a -> value in b``; None when they are equal."""
    if isinstance(a, Mapping) and isinstance(b, Mapping):
        for key in [*a, *(key for key in b if key not in a)]:
            difference = first_difference(a.get(key, _ABSENT), b.get(key, _ABSENT), where=_join(where, key))
            if difference is not None:
                return difference
        return None
    plain_a, plain_b = to_dict(a), to_dict(b)
    if plain_a == plain_b and isinstance(plain_a, bool) == isinstance(plain_b, bool):
        return None
    return f"'{where}': {_show_side(a)} -> {_show_side(b)}"


def _build_section(cls: type, data: Any, *, where: str, root: tuple[type, str], base: Any = None) -> Any:
    """One section; keys absent from `data` take the values of `base`, the default of the enclosing field."""
    if not isinstance(data, Mapping):
        raise _mismatch(where, data, _describe(cls, _NO_LIMITS))
    fields = {field.name: field for field in dataclasses.fields(cls) if field.init}
    for name in data:
        if name not in fields:
            raise _unknown_key(name, data[name], where=where, siblings=list(fields), root=root)
    hints = typing.get_type_hints(cls)
    values: dict[str, Any] = {}
    for name, field in fields.items():
        key = _join(where, name)
        limits = _limits_of(field)
        default = getattr(base, name) if base is not None else _default(field)
        if name in data:
            values[name] = _convert(hints[name], data[name], key=key, limits=limits, root=root, base=default)
        elif default is _ABSENT:
            raise UserError(f"config key '{key}' is missing; allowed: {_describe(hints[name], limits)}")
        else:
            values[name] = default
    return cls(**values)


def _default(field: dataclasses.Field[Any]) -> Any:
    if field.default_factory is not dataclasses.MISSING:
        return field.default_factory()
    return _ABSENT if field.default is dataclasses.MISSING else field.default


def _convert(hint: Any, value: Any, *, key: str, limits: Limits, root: tuple[type, str], base: Any = None) -> Any:
    """`value` as `hint` asks for it, or a UserError naming `key`."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if hint is Any:
        return value
    if origin in (types.UnionType, typing.Union):
        return _convert_union(hint, value, key=key, limits=limits, root=root, base=base)
    if dataclasses.is_dataclass(hint):
        inner = base if type(base) is hint else None
        return _build_section(typing.cast(type, hint), value, where=key, root=root, base=inner)
    if origin is tuple:
        if not isinstance(value, list | tuple):
            raise _mismatch(key, value, _describe(hint, limits))
        hints = [arguments[0]] * len(value) if arguments[-1] is Ellipsis else list(arguments)
        if len(hints) != len(value):
            raise _mismatch(key, value, _describe(hint, limits))
        pairs = enumerate(zip(hints, value, strict=True))
        return tuple(_convert(h, v, key=f"{key}[{i}]", limits=limits, root=root) for i, (h, v) in pairs)
    if origin is dict:
        if not isinstance(value, Mapping) or not all(isinstance(name, str) for name in value):
            raise _mismatch(key, value, _describe(hint, limits))
        return {n: _convert(arguments[1], v, key=_join(key, n), limits=limits, root=root) for n, v in value.items()}
    converted = _convert_scalar(hint, value)
    if converted is _ABSENT or not (converted is None or limits.allow(converted)):
        raise _mismatch(key, value, _describe(hint, limits))
    return converted


def _convert_union(hint: Any, value: Any, *, key: str, limits: Limits, root: tuple[type, str], base: Any) -> Any:
    members = [member for member in typing.get_args(hint) if member is not types.NoneType]
    if value is None and len(members) < len(typing.get_args(hint)):
        return None
    for member in members:
        try:
            return _convert(member, value, key=key, limits=limits, root=root, base=base)
        except UserError:
            # With one structured member the inner message names the inner key, which says more.
            if len(members) == 1 and isinstance(value, Mapping | list | tuple):
                raise
    raise _mismatch(key, value, _describe(hint, limits))


def _convert_scalar(hint: Any, value: Any) -> Any:
    """`value` as the scalar type `hint`, or `_ABSENT` when it is not one."""
    if typing.get_origin(hint) is typing.Literal:
        matches = [choice for choice in typing.get_args(hint) if choice == value and type(choice) is type(value)]
        return matches[0] if matches else _ABSENT
    if hint is types.NoneType:
        return None if value is None else _ABSENT
    if not isinstance(hint, type):
        raise TypeError(f"config sections cannot hold {hint!r}")
    if issubclass(hint, StrEnum):
        return hint(value) if isinstance(value, str) and value in {member.value for member in hint} else _ABSENT
    if hint is float:
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            return _ABSENT
        return float(value) if isinstance(value, float) or abs(value) < 2**1023 else _ABSENT
    if hint is int:
        return value if isinstance(value, int) and not isinstance(value, bool) else _ABSENT
    if hint in (bool, str):
        return value if isinstance(value, hint) else _ABSENT
    raise TypeError(f"config sections cannot hold {hint!r}")


def _describe(hint: Any, limits: Limits) -> str:
    """What a value of `hint` may be, in words."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (types.UnionType, typing.Union):
        return " or ".join(_describe(member, limits) for member in arguments)
    if origin is typing.Literal:
        return _one_of(arguments)
    if origin is tuple and arguments[-1] is Ellipsis:
        return f"a list, each {_describe(arguments[0], limits)}"
    if origin is tuple:
        return f"a list of {len(arguments)}: {', '.join(_describe(argument, limits) for argument in arguments)}"
    if origin is dict:
        return f"a mapping of names, each to {_describe(arguments[1], limits)}"
    if dataclasses.is_dataclass(hint):
        return f"a section with any of: {', '.join(field.name for field in dataclasses.fields(hint) if field.init)}"
    if isinstance(hint, type) and issubclass(hint, StrEnum):
        return _one_of([member.value for member in hint])
    nouns = {bool: "true or false", int: "an integer", float: "a number", str: "text", types.NoneType: "null"}
    return nouns[hint] if hint in (bool, types.NoneType) else limits.describe(nouns[hint])


def _limits_of(field: dataclasses.Field[Any]) -> Limits:
    """The limits of a `setting`, or those in the plain metadata of a field (packages that cannot import this one)."""
    if _LIMITS in field.metadata:
        limits = field.metadata[_LIMITS]
        assert isinstance(limits, Limits)
        return limits
    return Limits(**{limit.name: field.metadata.get(limit.name) for limit in dataclasses.fields(Limits)})


def _validate(value: Any, where: str) -> None:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        for field in dataclasses.fields(value):
            _validate(getattr(value, field.name), _join(where, field.name))
        if callable(check := getattr(value, "validate", None)):
            try:
                check(where)
            except UserError:
                raise
            except ValueError as error:
                raise UserError(str(error)) from error
    elif isinstance(value, Mapping):
        for name, inner in value.items():
            _validate(inner, _join(where, name))
    elif isinstance(value, tuple):
        for index, inner in enumerate(value):
            _validate(inner, f"{where}[{index}]")


def _unknown_key(name: Any, value: Any, *, where: str, siblings: list[str], root: tuple[type, str]) -> UserError:
    near = [_join(where, match) for match in difflib.get_close_matches(str(name), siblings, n=1)]
    if not near:
        everywhere = _dotted_keys(*root)
        near = [key for key in everywhere if key.rpartition(".")[2] == name]
        near = near or difflib.get_close_matches(_join(where, name), everywhere, n=1, cutoff=0.8)
    suggestion = f"did you mean '{near[0]}'? " if near else ""
    key = _join(where, name)
    return UserError(
        f"unknown config key '{key}' (value {_shorten(value)}); {suggestion}allowed here: {', '.join(siblings)}"
    )


def _dotted_keys(cls: type, where: str) -> list[str]:
    """Every key below `cls` that is reached through sections alone."""
    hints, keys = typing.get_type_hints(cls), []
    for field in dataclasses.fields(cls):
        key = _join(where, field.name)
        keys.append(key)
        for member in (hints[field.name], *typing.get_args(hints[field.name])):
            if dataclasses.is_dataclass(member):
                keys.extend(_dotted_keys(typing.cast(type, member), key))
    return keys


def _mismatch(key: str, value: Any, allowed: str) -> UserError:
    return UserError(f"{f'config key {key!r}' if key else 'the config'} is {_show(value)}; allowed: {allowed}")


def _join(where: str, name: object) -> str:
    return f"{where}.{name}" if where else str(name)


def _one_of(choices: Sequence[Any]) -> str:
    return f"one of {', '.join(repr(to_dict(choice)) for choice in choices)}"


def _shorten(value: Any) -> str:
    text = repr(to_dict(value))
    return text if len(text) <= 120 else f"{text[:117]}..."


def _show(value: Any) -> str:
    return f"{_shorten(value)} ({type(value).__name__})"


def _show_side(value: Any) -> str:
    return "(absent)" if value is _ABSENT else _shorten(value)
