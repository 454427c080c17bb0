"""From a configuration entry to a sampler: names, checked parameters, and the one canonical form of equal settings.

An entry is a number (the swept parameter) or a mapping of parameters by name; a name may also bring parameters along, as in
`klass(kl=0.005)`. Settings are equal exactly when `heuristic_parameters` is.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping

from policy.heuristics.eos import EosLast, WithoutEos
from policy.heuristics.parameters import Parameter, Value
from policy.heuristics.registry import HEURISTICS, HeuristicKind
from policy.heuristics.resources import Resources
from policy.unmasker import Unmasker

_CALL = re.compile(r"(?P<name>[^(=:]+)(?:\((?P<inner>.*)\)|[=:](?P<value>.+))?", re.DOTALL)


def heuristic_kind(name: str) -> HeuristicKind:
    """The kind of a plain name or of one that brings parameters along."""
    return HEURISTICS[_split(name)[0]]


def heuristic_parameters(name: str, entry: object) -> dict[str, Value]:
    """The swept parameter, then the others that are not at their defaults, in declared order.

    Raises:
        ValueError: quotes a name or value that there is not, and says what is allowed.
    """
    _, kind, values = _resolve(name, entry)
    return {each.name: values[each.name] for number, each in enumerate(_all(kind)) if _shows(number, each, values)}


def _shows(number: int, parameter: Parameter, values: Mapping[str, Value]) -> bool:
    return number == 0 or values[parameter.name] != parameter.default


def make_heuristic(name: str, entry: object, *, resources: Resources | None = None) -> Unmasker:
    """The sampler `name` at `entry`; a ValueError quotes what is wrong and says what is allowed.

    Args:
        name: of `HEURISTICS`, or one with parameters.
        entry: a number, or a mapping, which may leave parameters at their defaults.
        resources: what some samplers must know of the model; those that do are a ValueError without them.
    """
    base, kind, values = _resolve(name, entry)
    arguments: dict[str, object] = {each.name: values[each.name] for each in kind.parameters}
    if resources is None and (kind.takes_resources or values["eos"] != "allow"):
        raise ValueError(f"heuristic {base!r} needs the ids of a model; allowed: where a model is loaded")
    if kind.takes_resources:
        arguments["resources"] = resources
    unmasker = kind.build(**arguments)
    if resources is not None and values["eos"] == "never":
        return WithoutEos(unmasker, resources.eos_ids[0])
    return EosLast(unmasker, resources.eos_ids) if resources is not None and values["eos"] == "last" else unmasker


def whole_numbers(entry: object) -> object:
    """`entry` with whole floats as integers: in sweeps and configurations counts are floats too."""
    if isinstance(entry, float) and entry.is_integer():
        return int(entry)
    return {key: whole_numbers(value) for key, value in entry.items()} if isinstance(entry, Mapping) else entry


def canonical_name(name: str, entry: object) -> str:
    """The sampler with every parameter but the swept one that is not at its default: `klass(kl=0.005)`."""
    base, kind, _ = _resolve(name, entry)
    values = heuristic_parameters(name, entry)
    others = {key: value for key, value in values.items() if key != kind.parameter}
    inner = ",".join(
        f"{key}={value if isinstance(value, str) else format(value, 'g')}" for key, value in others.items()
    )
    return f"{base}({inner})" if inner else base


def _all(kind: HeuristicKind) -> tuple[Parameter, ...]:
    return (*kind.parameters, kind.eos)


def _resolve(name: str, entry: object) -> tuple[str, HeuristicKind, dict[str, Value]]:
    """(plain name, kind, every parameter's value)."""
    base, brought = _split(name)
    kind = HEURISTICS[base]
    given = dict(brought)
    if isinstance(entry, Mapping):
        given |= entry
    else:
        given[kind.parameter] = entry  # type: ignore[assignment]
    known = {each.name: each for each in _all(kind)}
    for key in given:
        if key not in known:
            raise ValueError(f"unknown parameter {key!r} of heuristic {base!r}; {_allowed(str(key), known)}")
    values: dict[str, Value] = {}
    for key, parameter in known.items():
        try:
            values[key] = parameter.parse(given[key]) if key in given else parameter.default
        except ValueError as error:
            raise ValueError(f"parameter {key!r} of heuristic {base!r} {error}") from error
    return base, kind, values


def _split(name: str) -> tuple[str, dict[str, Value]]:
    """A name and the parameters that it brings along: `a`, `a=0.9`, `a:0.9` or `a(k=2, eos=last)`."""
    match = _CALL.fullmatch(name)
    base = match["name"].strip() if match else name
    if match is None or base not in HEURISTICS:
        raise ValueError(f"unknown heuristic {base!r}; {_allowed(base, HEURISTICS)}")
    if match["value"] is not None:
        return base, {HEURISTICS[base].parameter: _value(match["value"])}
    pairs = [part.partition("=") for part in (match["inner"] or "").split(",") if part.strip()]
    if any(not equals for _, equals, _ in pairs):
        raise ValueError(f"heuristic {name!r} is malformed; allowed: NAME, NAME=VALUE or NAME(PARAMETER=VALUE, ...)")
    return base, {key.strip(): _value(value) for key, _, value in pairs}


def _value(text: str) -> Value:
    text = text.strip()
    for convert in (int, float):
        try:
            return convert(text)
        except ValueError:
            continue
    return text[1:-1] if len(text) > 1 and text[0] == text[-1] and text[0] in "'\"" else text


def _allowed(name: str, known: Iterable[str]) -> str:
    """What is allowed, and the nearest of it."""
    names = list(known)
    near = difflib.get_close_matches(name, names, n=1)
    return (f"did you mean {near[0]!r}? " if near else "") + f"allowed: {', '.join(names)}"
