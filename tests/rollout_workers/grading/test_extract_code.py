"""Code from model texts: continued prefixes, fenced blocks, repeated functions, prose around, and time linear in the length."""

from __future__ import annotations

import time

import pytest

from rollout_workers.grading.extract_code import extract_code

HEAD = "from typing import List\n\n\ndef helper(x):\n    return x\n"
PROMPT = HEAD + '\n\ndef f(a: int) -> int:\n    """ Doc (a\n    it\'s.\n    """\n'
FUNCTION = "def f(a):\n    return helper(a)"

WITH_PREFIX = {
    "a body": ("    return a\n", PROMPT + "    return a\n"),
    "a body and the closing fence": ("    return a\n```\nThis returns a.", PROMPT + "    return a\n"),
    "a body and prose": ("    return a\n\nThis function isn't long (\nIt returns a.\n", PROMPT + "    return a\n"),
    "a body without its first indentation": ("return a\n", PROMPT + "    return a\n"),
    "two lines without the first indentation": ("b = a\n    return b\n", PROMPT + "    b = a\n    return b\n"),
    "a body and another function": (
        "    return g(a)\n\ndef g(b):\n    return b\n", PROMPT + "    return g(a)\n\ndef g(b):\n    return b\n",
    ),
    "a body, a trial and a main guard": (
        "    return a\n\nprint(f(1),\n  2)\nassert f(1) == 2\nif __name__ == '__main__':\n    f(3)\n",
        PROMPT + "    return a\n\nif __name__ == '__main__':\n    f(3)\n",
    ),
    "an empty line first": ("\n    return a\n", PROMPT + "\n    return a\n"),
    "the whole function": (FUNCTION + "\n", HEAD + "\n" + FUNCTION + "\n"),
    "the whole function in a block": (f"Sure!\n```python\n{FUNCTION}\n```\nDone.", HEAD + "\n" + FUNCTION + "\n"),
    "the whole function with its imports": (f"```python\nimport math\n{FUNCTION}\n```", HEAD + "\nimport math\n" + FUNCTION + "\n"),
    "a block with no language": (f"Here:\n```\n{FUNCTION}\n```", HEAD + "\n" + FUNCTION + "\n"),
    "a block of another function": ("```python\ndef g(a):\n    return a\n```", PROMPT.rstrip() + "\n\ndef g(a):\n    return a\n"),
    "a decorated function anew": (
        "import functools\n@functools.cache\n" + FUNCTION, HEAD + "\nimport functools\n@functools.cache\n" + FUNCTION + "\n",
    ),
}  # fmt: skip

ALONE = {
    "plain code": (FUNCTION, FUNCTION),
    "a block": (f"Text.\n\n```python\n{FUNCTION}\n```\nMore.", FUNCTION),
    "a block of Python 3": (f"```python3\n{FUNCTION}\n```", FUNCTION),
    "a block in capitals": (f"```Python\n{FUNCTION}\n```", FUNCTION),
    "a block never closed": (f"Text.\n```python\n{FUNCTION}\n", FUNCTION),
    "a block with no language": (f"Text.\n```\n{FUNCTION}\n```", FUNCTION),
    "tildes": (f"~~~python\n{FUNCTION}\n~~~", FUNCTION),
    "longer fences": (f"````python\n{FUNCTION}\n```\n'''\n````", f"{FUNCTION}\n```\n'''"),
    "an indented block": ("1. Do:\n   ```python\n   def f(a):\n       return a\n   ```", "def f(a):\n    return a"),
    "a block opened by the prompt": (f"{FUNCTION}\n```\nText.\n```python\nf(1)\n```", FUNCTION),
    "a shell block first": (f"```bash\npip install x\n```\n```python\n{FUNCTION}\n```", FUNCTION),
    "a block of use first": (f"```python\nf(1)\n```\n```python\n{FUNCTION}\n```", FUNCTION),
    "two definitions": (f"```python\n{FUNCTION}\n```\n```python\ndef g(): pass\n```", FUNCTION),
    "no definition at all": ("```python\nx = 1\n```\n```python\ny = 2\n```", "x = 1"),
    "prose before and after": (f"Here is the code:\n\n{FUNCTION}\n\nIt is good.\nx = 5 is used.", FUNCTION),
    "strings that look like prose": 2 * ("def f():\n    x = '''\nHere is text (\n'''\n    return x",),
    "a function without return": ("def f(a):\n    a.append(1)\n\ndef g(): pass", "def f(a):\n    a.append(1)\n\ndef g(): pass"),
    "brackets over lines": ("X = [\n1,\n]\ndef f(): return X", "X = [\n1,\n]\ndef f(): return X"),
    "windows lines": ("```python\r\ndef f(a):\r\n    return a\r\n```\r\n", "def f(a):\n    return a"),
    "an async function": ("Text\nasync def f(a):\n    return a\nText", "async def f(a):\n    return a"),
    "prose alone": ("I cannot do that.", "I cannot do that."),
    "nothing": ("", ""),
}  # fmt: skip


@pytest.mark.parametrize("name", WITH_PREFIX)
def test_with_a_prefix(name):
    text, code = WITH_PREFIX[name]
    assert extract_code(text, prefix=PROMPT).rstrip("\n") == code.rstrip("\n")
    compile(extract_code(text, prefix=PROMPT), "x", "exec")


@pytest.mark.parametrize("name", ALONE)
def test_without_a_prefix(name):
    text, code = ALONE[name]
    assert extract_code(text) == code + "\n"


def test_the_block_of_the_entry_point_counts():
    text = "```python\ndef g(): pass\n```\n```python\ndef f(): pass\n```"
    assert extract_code(text, entry_point="f") == "def f(): pass\n"
    assert extract_code(text) == "def g(): pass\n"


def test_a_prefix_without_a_body_is_replaced_and_not_repeated():
    assert (
        extract_code("def f(x):\n    return x", prefix="import re\n\ndef f(x):\n")
        == "import re\n\ndef f(x):\n    return x\n"
    )


def test_an_open_line_is_continued():
    assert extract_code("return x\n", prefix="def f(x):\n    ") == "def f(x):\n    return x\n\n"


@pytest.mark.parametrize(
    "piece",
    [
        "'\\'",
        "x'",
        '"""',
        "(a ",
        "def f():\n",
        "```\n",
        "a a a ",
        "if : : :",
        "x\n    y\n",
        "\\\n",
        "# ",
        "@a\n",
        "    ",
    ],
)
def test_time_is_linear_in_the_text(piece):
    def seconds(count: int) -> float:
        started = time.process_time()
        extract_code(piece * count)
        extract_code("    " + piece * count, prefix=PROMPT)
        return time.process_time() - started

    small, large = min(seconds(1000) for _ in range(3)), min(seconds(8000) for _ in range(3))
    assert large < 40 * max(small, 1e-3), (small, large)
