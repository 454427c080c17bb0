"""The programs of the sandbox, compiled once and handed over as bytes: nothing of this project is visible inside."""

from __future__ import annotations

import importlib.util
import marshal
from functools import cache
from pathlib import Path
from typing import Any

_PACKAGE = "rollout_workers.grading.programs"

BOOT = """
import marshal, sys
with open(int(sys.argv[1]), "rb") as file:
    modules, arguments = marshal.load(file), marshal.load(file)
sys.argv = ["solution"]
for name, code in modules:
    module = sys.modules[name] = type(sys)(name)
    exec(code, module.__dict__)
module.main(*arguments)
"""
"""What the interpreter inside starts with: the last module of the bundle is the program."""


@cache
def bundle(*names: str) -> bytes:
    """The modules `names` of the programs package, in the order in which they may import each other."""
    spec = importlib.util.find_spec(_PACKAGE)
    assert spec is not None
    assert spec.submodule_search_locations
    folder = Path(spec.submodule_search_locations[0])
    sources = [(name, (folder / f"{name}.py").read_text(encoding="utf-8")) for name in names]
    codes = [(f"{_PACKAGE}.{name}", compile(source, f"<{name}>", "exec", optimize=2)) for name, source in sources]
    return marshal.dumps(tuple(codes))


def request_bytes(modules: bytes, arguments: tuple[Any, ...]) -> bytes:
    """What `BOOT` reads. `arguments` hold None, numbers, text, bytes and tuples only."""
    return modules + marshal.dumps(arguments)


INTERPRETER_FLAGS = ("-s", "-S", "-P", "-B", "-X", "utf8")
"""No installed packages, no user's modules, no bytecode files, UTF-8."""
