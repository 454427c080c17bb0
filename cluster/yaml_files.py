"""YAML text to plain values and back: what `dump_yaml` writes, `parse_yaml` reads as the same values.

Scalars follow the YAML 1.2 core schema, so `off` is text, `1e-3` is a number and `1:30` is no sexagesimal;
a duplicate key is an error instead of a silent last-one-wins.
"""

from __future__ import annotations

import re
from collections.abc import Hashable, Mapping
from pathlib import Path
from typing import Any

import yaml

from cluster.errors import UserError

_SCALARS = (
    ("bool", re.compile(r"^(?:true|True|TRUE|false|False|FALSE)$"), "tTfF"),
    ("int", re.compile(r"^(?:[-+]?(?:0|[1-9](?:_?[0-9])*)|0x[0-9a-fA-F]+|0o[0-7]+)$"), "-+0123456789"),
    (
        "float",
        re.compile(
            r"^(?:[-+]?(?:[0-9]+\.[0-9]*|\.[0-9]+)(?:[eE][-+]?[0-9]+)?|[-+]?[0-9]+[eE][-+]?[0-9]+"
            r"|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN))$"
        ),
        "-+0123456789.",
    ),
    ("null", re.compile(r"^(?:~|null|Null|NULL|)$"), ["~", "n", "N", ""]),
    ("merge", re.compile(r"^<<$"), "<"),
)


class _Loader(yaml.SafeLoader):
    """Safe loader with the core schema that refuses duplicate keys."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen: set[str] = set()
        for key_node, _ in node.value:
            if not isinstance(key_node, yaml.ScalarNode):
                raise yaml.constructor.ConstructorError(None, None, "a key must be plain text", key_node.start_mark)
            if key_node.value in seen and not key_node.tag.endswith(":merge"):
                problem = f"duplicate key '{key_node.value}'"
                raise yaml.constructor.ConstructorError(None, None, problem, key_node.start_mark)
            seen.add(key_node.value)
        return super().construct_mapping(node, deep=deep)


class _Dumper(yaml.SafeDumper):
    """Safe dumper that also quotes the text that `_Loader` would read as a number."""

    def ignore_aliases(self, data: object) -> bool:
        return True


def _construct_int(loader: yaml.SafeLoader, node: yaml.ScalarNode) -> int:
    return int(str(loader.construct_scalar(node)), 0)


_Loader.yaml_implicit_resolvers = {}
for _name, _pattern, _first in _SCALARS:
    _Loader.add_implicit_resolver(f"tag:yaml.org,2002:{_name}", _pattern, _first)
    _Dumper.add_implicit_resolver(f"tag:yaml.org,2002:{_name}", _pattern, _first)
_Loader.add_constructor("tag:yaml.org,2002:int", _construct_int)


def parse_yaml(text: str, *, source: str) -> Any:
    """The value of one YAML document; a syntax error or duplicate key is a UserError ``source:line: problem``."""
    try:
        return yaml.load(text, Loader=_Loader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = mark.line + 1 if mark is not None else 1
        raise UserError(f"{source}:{line}: {error.problem or error.context}") from error
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        raise UserError(f"{source}:{line}: character #x{ord(text[error.position]):04x} is not allowed") from error


def parse_value(text: str, *, source: str) -> Any:
    """The value of an override: a YAML scalar or flow list or mapping; other text stands for itself."""
    try:
        node = yaml.compose(text, Loader=_Loader)
    except yaml.YAMLError as error:
        problem = getattr(error, "problem", None) or "unreadable"
        raise UserError(f"{source}: value {text!r} is not valid YAML ({problem})") from error
    if isinstance(node, yaml.CollectionNode) and not node.flow_style:
        return text
    return parse_yaml(text, source=source)


def load_yaml(path: Path | str) -> dict[str, Any]:
    """The mapping in the file at `path` (an empty file is an empty mapping); every failure is a UserError."""
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise UserError(f"cannot read config file '{path}': {error.strerror}; allowed: a readable YAML file") from error
    except UnicodeDecodeError as error:
        raise UserError(f"config file '{path}' is not UTF-8 text (byte {error.start})") from error
    data = parse_yaml(text, source=str(path))
    if data is None:
        return {}
    if not isinstance(data, dict):
        raise UserError(f"{path}:1: the top level is a {type(data).__name__}; allowed: a mapping of config sections")
    return data


def dump_yaml(data: Mapping[str, Any]) -> str:
    """YAML text of plain values, keys in their own order."""
    return yaml.dump(data, Dumper=_Dumper, sort_keys=False, default_flow_style=False, allow_unicode=True, width=120)
