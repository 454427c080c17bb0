"""Takes the code out of what a model wrote.

Invariant: a few passes over the lines, nothing is parsed, and no definition is ever dropped. What is cut is fences, prose around
the code, and the model's own `assert` and `print` statements at the left margin, which define nothing and could fail while
loading. A text without code stays as it is, so the check that follows says why it fails.
"""

from __future__ import annotations

import re

_FENCE = re.compile(r"([ \t]*)(`{3,}|~{3,})[ \t]*([\w+.#-]*)[^`]*")
_LANGUAGES = frozenset({"", "python", "python3", "py", "py3"})
_OPENER = re.compile(r"(?:(?:async[ \t]+)?def|class)[ \t]+(\w+)|import[ \t]+\w|from[ \t]+[\w.]+[ \t]+import\b|@\w")
_DROPPED = re.compile(r"assert\b|print[ \t]*\(")
_TOKEN = re.compile(
    r"""\#[^\n]*
    | '''(?:[^'\\]|\\.|'(?!''))*(?:'''|\Z) | \"\"\"(?:[^"\\]|\\.|"(?!""))*(?:\"\"\"|\Z)
    | '(?:[^'\\\n]|\\.)*'? | "(?:[^"\\\n]|\\.)*"?
    | [()\[\]{}] | \n""",
    re.VERBOSE | re.DOTALL,
)
_NAME = r"[A-Za-z_]\w*"
_STATEMENT = re.compile(
    rf"""
      \#|@{_NAME}|['"]
    | (?:async\s+)?def\s+{_NAME}\s*\( | class\s+{_NAME}\s*[(:]
    | import\s+[\w.]+(?:\s+as\s+{_NAME})?\s*(?:[,;\#].*)?$ | from\s+[\w.]+\s+import\b
    | (?:if|elif|while|with|except|match)\b.*: | (?:async\s+)?for\s.*\sin\s.*: | (?:else|try|finally|except)\s*:
    | (?:raise|assert|del|global)\s+{_NAME} | (?:pass|break|continue)\s*(?:\#.*)?$
    | [\w.\[\]'",\s()*:]*[\w\])]\s*(?:[-+*/%&|^@]|//|\*\*|<<|>>)?=(?!=)
    | {_NAME}(?:\.{_NAME})*\s*[(\[](?:.*[)\],(\[{{]\s*(?:\#.*)?)?$
    """,
    re.VERBOSE,
)
"""What a line at the left margin looks like when it starts a statement, and prose does not."""
_LOOKED_AT = 400
"""Characters of a line that tell what it is."""


def extract_code(text: str, *, prefix: str = "", entry_point: str = "") -> str:
    """The module that `text` amounts to, in time linear in its length.

    `prefix` is what the prompt had already written of the answer (imports, helpers, the head of a function). A text that goes on
    from there is joined to it; a text that writes the function anew replaces it, and the rest of `prefix` stays. Of several fenced
    blocks the first that defines `entry_point` counts, else the first that defines anything, else the first.
    """
    lines = text.replace("\r\n", "\n").replace("\r", "\n").split("\n")
    if prefix:
        fence = next((number for number, line in enumerate(lines) if _FENCE.fullmatch(line)), len(lines))
        body = _as_body(lines[:fence], prefix)
        if body is not None:
            return prefix.rstrip(" \t") + "\n".join(_clean(body, cut_prose=True)) + "\n"
    code = _choose(lines, entry_point or _last_defined(prefix)[0])
    return _with_head(prefix, "\n".join(code).strip("\n") + "\n") if prefix else "\n".join(code).strip("\n") + "\n"


def _as_body(lines: list[str], prefix: str) -> list[str] | None:
    """`lines` when they go on inside the function that `prefix` leaves open, else None."""
    number = next((number for number, line in enumerate(lines) if line.strip()), None)
    if number is None:
        return None
    first = lines[number]
    if first[0] in " \t":
        return lines
    looks_like_code = _is_statement(first) or first.startswith(("return", "yield"))
    if _OPENER.match(first) or not looks_like_code or not _last_defined(prefix)[0]:
        return None
    # The indentation of the first line went missing at the seam.
    inside = [line for line in prefix.split("\n") if line.startswith((" ", "\t"))]
    indent = re.match(r"[ \t]*", inside[0])[0] if inside else "    "  # type: ignore[index]
    return [*lines[:number], indent + first, *lines[number + 1 :]]


def _choose(lines: list[str], entry_point: str) -> list[str]:
    blocks = _blocks(lines)
    if not blocks:
        return _clean(lines, cut_prose=True)
    defined = [{found[1] for found in map(_OPENER.match, block) if found and found[1]} for block in blocks]
    for wanted in ({entry_point}, set().union(*defined)):
        for block, names in zip(blocks, defined, strict=True):
            if names & wanted:
                return _clean(block, cut_prose=False)
    return _clean(blocks[0], cut_prose=False)


def _blocks(lines: list[str]) -> list[list[str]]:
    """What lies between fences. One left open lasts to the end; code before a bare first fence was opened by the prompt."""
    blocks: list[list[str]] = []
    current: list[str] = []
    opened: re.Match[str] | None = None
    seen = False
    for line in lines:
        fence = _FENCE.fullmatch(line)
        if opened is not None and fence and not fence[3] and fence[2].startswith(opened[2]):
            blocks += [current] if opened[3].lower() in _LANGUAGES else []
            opened, current = None, []
        elif opened is None and fence:
            first = next(filter(str.strip, current), "")
            if not seen and not fence[3] and _is_statement(first):
                blocks.append(current)
            else:
                opened = fence
            current, seen = [], True
        else:
            current.append(line.removeprefix(opened[1]) if opened else line)
    if opened is not None and opened[3].lower() in _LANGUAGES:
        blocks.append(current)
    return blocks


def _clean(lines: list[str], *, cut_prose: bool) -> list[str]:
    """`lines` without the model's own trials; with `cut_prose` only from the first statement to the next prose."""
    starts = _statement_starts(lines)
    kept: list[str] = []
    inside = lines[: starts[0]] if starts else lines
    kept += inside
    has_code = any(map(str.strip, inside))
    for start, end in zip(starts, [*starts[1:], len(lines)], strict=False):
        if cut_prose and not _is_statement(lines[start]):
            if has_code:
                break
            continue
        has_code = True
        if not _DROPPED.match(lines[start]):
            kept += lines[start:end]
    return kept if has_code else lines


def _statement_starts(lines: list[str]) -> list[int]:
    """Numbers of the lines that begin at the left margin, outside of strings and brackets."""
    starts, depth, number = [], 0, 0
    for token in _TOKEN.finditer("\n".join(["", *lines])):
        piece = token[0]
        if piece == "\n":
            line = lines[number]
            if _OPENER.match(line):
                depth = 0
            closes = line[:1] in ("", " ", "\t", ")", "]", "}") or line.startswith(
                ("else", "elif", "except", "finally")
            )
            if depth == 0 and not closes:
                starts.append(number)
            number += 1
        elif piece in "([{":
            depth += 1
        elif piece in ")]}":
            depth = max(0, depth - 1)
        else:
            number += piece.count("\n")
    return starts


def _is_statement(line: str) -> bool:
    return _STATEMENT.match(line[:_LOOKED_AT]) is not None


def _last_defined(prefix: str) -> tuple[str, int]:
    """The function or class at the left margin that `prefix` ends in, and the number of its first line; "" without one."""
    name, first, decorated = "", 0, None
    for number, line in enumerate(prefix.split("\n")):
        opener = _OPENER.match(line)
        if opener and opener[1]:
            name, first = opener[1], number if decorated is None else decorated
        if line.strip():
            decorated = (number if decorated is None else decorated) if line.startswith("@") else None
    return name, first


def _with_head(prefix: str, code: str) -> str:
    """`code` after what it needs of `prefix`: all of it, less the function that it writes anew."""
    name, first = _last_defined(prefix)
    if name and any(found and found[1] == name for found in map(_OPENER.match, code.split("\n"))):
        prefix = "\n".join(prefix.split("\n")[:first])
    return prefix.rstrip() + "\n\n" + code if prefix.strip() else code
