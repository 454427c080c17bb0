r"""One spelling for MATH answers: LaTeX that typesets the same, or differs in notation only, becomes the same string.

Invariant: normalisation never raises and takes time linear in the answer; it renames and removes notation and computes nothing.
After the rules of Hendrycks et al., arXiv 2103.03874 (`math_equivalence.py`), applied to whole commands and whole arguments:

- spacing, `\left`, `\right`, `\big`, dollar and percent signs, degrees, display delimiters and a final full stop vanish;
- `\dfrac`, `\tfrac`, `\cfrac` are `\frac`; arguments get their braces: `\frac12`, `\frac9{19}`, `\frac\pi2`, `\sqrt3`; scripts of
  one character lose them: `x^{2}`; `a/b` of integers is a fraction; `.5` is `0.5`;
- a unit at the end (`\text{ cm}^2`, `\mbox{ inches}`) vanishes; other text commands leave their text; `\text{ and }` is a comma;
- thousands groups lose their separators where these are unmistakable: `{,}`, `,\!`, `\,`, or `1,234` as the whole answer. A comma
  with a space makes a list: `100, 200`.
"""

from __future__ import annotations

import re

_CHARACTERS = str.maketrans(
    dict.fromkeys("−‐‑–﹣－", "-")
    | dict.fromkeys("\n\t\r\u00a0\u202f\u2009~", " ")
    | {"°": ""}
    | {"π": r"\pi ", "∞": r"\infty ", "×": r"\times ", "·": r"\cdot ", "⋅": r"\cdot ", "÷": r"\div ", "≤": r"\le ", "≥": r"\ge "}
    | {"≠": r"\ne ", "±": r"\pm ", "∪": r"\cup ", "∩": r"\cap ", "∈": r"\in ", "√": r"\sqrt "}
)  # fmt: skip
_TEXT_COMMAND = (
    r"\\(?:text|mbox|hbox|textrm|textbf|textit|textsf|texttt|textnormal|math(?:rm|bf|it|sf)|boldsymbol)(?![A-Za-z])"
)
_RENAMED = (
    {name: "" for name in ("left", "right", "bigl", "bigr", "Bigl", "Bigr", "big", "Big", "displaystyle", "textstyle")}
    | {name: "" for name in ("limits", "bf", "rm", "it", "degree")}
    | {name: " " for name in ("quad", "qquad", "enspace", "space")}
    | {name: r"\frac" for name in ("dfrac", "tfrac", "cfrac")}
    | {"leq": r"\le", "geq": r"\ge", "neq": r"\ne", "lbrace": r"\{", "rbrace": r"\}", "varnothing": r"\emptyset"}
    | {"ldots": r"\dots", "cdots": r"\dots"}
)
_SYMBOLS = dict.fromkeys(",;: ", " ") | dict.fromkeys("!()[]$%", "") | {"#": "#"}

_ENVIRONMENT = re.compile(r"\\(begin|end)\{(?:[bp]?matrix|smallmatrix)\}")
_DOUBLED_BACKSLASH = re.compile(r"\\\\(?=[A-Za-z])")
_NEGATIVE_SPACE = re.compile(r"(?:\{,\}|,\\!)\s*+(?=[0-9]{3})")
_FENCE_DOT = re.compile(r"\\(?:left|right) ?\.")
_DEGREES = re.compile(r"\^ ?(?:\\circ(?![A-Za-z])|\{ ?\\circ ?\})")
_COMMAND = re.compile(r"\\(?:([A-Za-z]+)|(.))", re.DOTALL)
_CONJUNCTION = re.compile(rf",? ?(?:{_TEXT_COMMAND} ?\{{ ?,? ?(?:and|or) ?\}}|(?<= )(?:and|or)(?= )),? ?")
_UNIT = re.compile(rf"(?P<command>{_TEXT_COMMAND}) ?\{{(?P<name>[^{{}}]*+)\}} ?(?:\^ ?(?:[0-9]|\{{ ?[0-9] ?\}}))? ?$")
_HAS_QUANTITY = re.compile(r"[0-9]|\\(?:frac|sqrt|pi)(?![A-Za-z])")
_TEXT = re.compile(rf"{_TEXT_COMMAND} ?\{{ ?([^{{}}]*+)\}}")
_THOUSANDS = re.compile(r"[-+]?[0-9]{1,3}(?:(?:,[0-9]{3})++|(?: [0-9]{3})++)(?:\.[0-9]++)?")
_BARE_POINT = re.compile(r"(?<![0-9.])\.(?=[0-9])")
_SLASH = re.compile(r"(?<![\w)}\]/.^])(?<![0-9],)([0-9]++)/([0-9]++)(?!\w|[({\[/.^]|\\(?!end\{)[A-Za-z])")
_BRACED_SCRIPT = re.compile(r"([\^_])\{([^{}\\])\}")
_KEPT_SPACE = re.compile(r"(?<=[0-9]) (?=[0-9])|(\\[A-Za-z]++) (?=[A-Za-z])")
_SENTENCE_END = " .,;:"
_SPACE_MARK = "\x1f"
_ARGUMENT = re.compile(r"\\[A-Za-z]+|\\.|[^\s{}]")
_MAX_INDEX_CHARS = 50
_FRACTION_OR_ROOT = re.compile(r"\\(frac|sqrt)(?![A-Za-z])")
_CHOICE = re.compile(r"\(([A-Za-z])\)")


def normalise(answer: str) -> str:
    """The normal form of one answer; empty for an answer without content."""
    text = _without_notation(answer)
    text = _CONJUNCTION.sub(",", text).rstrip(_SENTENCE_END)
    for _ in range(2):
        text = _without_unit(text)
    text = " ".join(_TEXT.sub(r"\1", text).split()).rstrip(_SENTENCE_END)
    name, equals, value = text.rpartition("=")
    if _THOUSANDS.fullmatch(value.strip()):
        text = name + equals + value.replace(",", "").replace(" ", "")
    text = _SLASH.sub(r"\\frac{\1}{\2}", _BARE_POINT.sub("0.", _with_braces(text)))
    text = _KEPT_SPACE.sub(rf"\1{_SPACE_MARK}", _BRACED_SCRIPT.sub(r"\1\2", text))
    text = text.replace(" ", "").replace(_SPACE_MARK, " ").replace("{}", "").replace("\\\\\\end", "\\end")
    if text.startswith("{") and _closings(text).get(0) == len(text):
        text = text[1:-1]
    choice = _CHOICE.fullmatch(text)
    return choice[1] if choice else text


def _without_notation(answer: str) -> str:
    text = answer.replace("\\\\", "\\") if "\\\\begin" in answer else answer
    if "\\begin" not in text:
        text = _DOUBLED_BACKSLASH.sub(r"\\", text).replace("\\\\", " ")
    text = " ".join(_NEGATIVE_SPACE.sub("", text).translate(_CHARACTERS).split())
    text = _ENVIRONMENT.sub(r"\\\1{pmatrix} ", _DEGREES.sub("", _FENCE_DOT.sub("", text)))
    return " ".join(_COMMAND.sub(_renamed, text).replace("%", "").replace("$", "").split())


def _renamed(match: re.Match[str]) -> str:
    name, symbol = match[1], match[2]
    return _RENAMED.get(name, match[0]) if symbol is None else _SYMBOLS.get(symbol, match[0])


def _without_unit(text: str) -> str:
    unit = _UNIT.search(text)
    if unit is None or not _is_unit(unit["command"], unit["name"].strip()):
        return text
    quantity = text[: unit.start()].rstrip()
    return quantity if _HAS_QUANTITY.search(quantity) and quantity[-1] not in ",;=+-*/(<>^_{[" else text


def _is_unit(command: str, name: str) -> bool:
    r"""Words, but neither a constant (`2\mathrm{e}`, `3\text{i}`) nor a variable (`2\mathbf{v}`)."""
    is_letter = len(name) == 1 and (name in "ie" or command.startswith(("\\math", "\\bold")))
    return not is_letter and re.search("[A-Za-z]", name) is not None and re.search("[0-9=]", name) is None


def _with_braces(text: str) -> str:
    r"""`text` with braces around the arguments of `\frac` and `\sqrt` that have none."""
    closings = _closings(text)
    braces: list[tuple[int, str]] = []
    for command in _FRACTION_OR_ROOT.finditer(text):
        position = command.end()
        if command[1] == "sqrt" and text.startswith("[", position):
            position = text.find("]", position, position + _MAX_INDEX_CHARS) + 1 or position
        for _ in range(2 if command[1] == "frac" else 1):
            position += text.startswith(" ", position)
            if text.startswith("{", position):
                position = closings.get(position, len(text))
            elif argument := _ARGUMENT.match(text, position):
                braces += [(position, "{"), (argument.end(), "}")]
                position = argument.end()
    pieces, done = [], 0
    for position, brace in sorted(braces, key=lambda each: each[0]):
        pieces += [text[done:position], brace]
        done = position
    return "".join([*pieces, text[done:]])


def _closings(text: str) -> dict[int, int]:
    """For each opening brace that is closed: the position behind its closing one."""
    closings: dict[int, int] = {}
    opened: list[int] = []
    for token in re.finditer(r"\\.|[{}]", text):
        if token[0] == "{":
            opened.append(token.start())
        elif token[0] == "}" and opened:
            closings[opened.pop()] = token.end()
    return closings
