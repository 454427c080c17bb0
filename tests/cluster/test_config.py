from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.config import apply_overrides, build, dump_yaml, first_difference, load_yaml, merge, setting, to_dict
from cluster.errors import UserError


class Mode(StrEnum):
    FULL = "full"
    STOP = "stop"


@dataclass(frozen=True)
class Optimiser:
    learning_rate: float = setting(1e-4, above=0)
    betas: tuple[float, float] = (0.9, 0.95)


@dataclass(frozen=True)
class Learner:
    group_size: int = setting(8, minimum=2)
    clip: float | None = setting(None, above=0, below=1)
    mode: Mode = Mode.FULL
    loss: Literal["grpo", "upo"] = "grpo"
    tags: tuple[str, ...] = ()
    weights: dict[str, float] = setting({}, minimum=0)
    optimiser: Optimiser = field(default_factory=Optimiser)
    verbose: bool = False
    precision: str = setting("float32", choices=("float32", "bfloat16"))

    def validate(self, where: str) -> None:
        if self.loss == "upo" and self.clip is None:
            raise UserError(f"config key '{where}.clip' is None (NoneType); allowed with loss upo: a number")


@dataclass(frozen=True)
class Run:
    name: str
    learner: Learner = field(default_factory=lambda: Learner(group_size=16))
    baselines: tuple[Optimiser, ...] = ()
    extra: Optimiser | None = None


def make(**learner: Any) -> Run:
    return build(Run, {"name": "run", "learner": learner})


def refusal(**learner: Any) -> str:
    with pytest.raises(UserError) as caught:
        make(**learner)
    return str(caught.value)


def test_typed_values_are_built_and_absent_keys_take_the_defaults_of_the_enclosing_section() -> None:
    run = build(
        Run,
        {
            "name": "run",
            "learner": {"mode": "stop", "tags": ["a", "b"], "weights": {"x": 1}, "optimiser": {"learning_rate": 1}},
            "baselines": [{"betas": [0.5, 0.6]}],
            "extra": {},
        },
    )
    assert run.learner == Learner(16, None, Mode.STOP, "grpo", ("a", "b"), {"x": 1.0}, Optimiser(1.0))
    assert isinstance(run.learner.optimiser.learning_rate, float)
    assert run.learner.mode is Mode.STOP
    assert run.baselines == (Optimiser(betas=(0.5, 0.6)),)
    assert run.extra == Optimiser()


@pytest.mark.parametrize(
    ("learner", "message"),
    [
        ({"group_size": "eight"}, "config key 'learner.group_size' is 'eight' (str); allowed: an integer >= 2"),
        ({"group_size": 1}, "config key 'learner.group_size' is 1 (int); allowed: an integer >= 2"),
        ({"group_size": True}, "config key 'learner.group_size' is True (bool); allowed: an integer >= 2"),
        ({"group_size": 8.0}, "config key 'learner.group_size' is 8.0 (float); allowed: an integer >= 2"),
        ({"group_size": None}, "config key 'learner.group_size' is None (NoneType); allowed: an integer >= 2"),
        ({"clip": 1.0}, "config key 'learner.clip' is 1.0 (float); allowed: a number > 0 and < 1 or null"),
        ({"clip": float("nan")}, "config key 'learner.clip' is nan (float); allowed: a number > 0 and < 1 or null"),
        ({"mode": "ful"}, "config key 'learner.mode' is 'ful' (str); allowed: one of 'full', 'stop'"),
        ({"loss": "ppo"}, "config key 'learner.loss' is 'ppo' (str); allowed: one of 'grpo', 'upo'"),
        ({"verbose": 1}, "config key 'learner.verbose' is 1 (int); allowed: true or false"),
        (
            {"precision": "half"},
            "config key 'learner.precision' is 'half' (str); allowed: one of 'float32', 'bfloat16'",
        ),
        ({"tags": "a"}, "config key 'learner.tags' is 'a' (str); allowed: a list, each text"),
        ({"tags": ["a", 2]}, "config key 'learner.tags[1]' is 2 (int); allowed: text"),
        ({"weights": {"x": -1}}, "config key 'learner.weights.x' is -1 (int); allowed: a number >= 0"),
        ({"weights": {1: 1}}, "config key 'learner.weights' is {1: 1} (dict); allowed: a mapping of names, each to a"),
        ({"optimiser": {"betas": [1]}}, "config key 'learner.optimiser.betas' is [1] (list); allowed: a list of 2: a"),
        ({"optimiser": 3}, "config key 'learner.optimiser' is 3 (int); allowed: a section with any of: learning_rate"),
        ({"loss": "upo"}, "config key 'learner.clip' is None (NoneType); allowed with loss upo: a number"),
    ],
)
def test_a_bad_value_is_quoted_with_its_key_and_what_is_allowed(learner: dict[str, Any], message: str) -> None:
    refused = refusal(**learner)
    assert refused.startswith(message)
    assert "\n" not in refused


def test_an_unknown_key_is_refused_with_the_nearest_valid_name() -> None:
    assert refusal(optimiser={"leraning_rate": 0.1}) == (
        "unknown config key 'learner.optimiser.leraning_rate' (value 0.1); "
        "did you mean 'learner.optimiser.learning_rate'? allowed here: learning_rate, betas"
    )
    assert "did you mean 'learner.optimiser.learning_rate'?" in refusal(learning_rate=0.1)
    far = refusal(zzz=[1])
    assert "'learner.zzz' (value [1]); allowed here: group_size, clip" in far


def test_missing_required_key_and_wrong_top_level() -> None:
    with pytest.raises(UserError, match=r"^config key 'name' is missing; allowed: text$"):
        build(Run, {})
    with pytest.raises(UserError, match=r"^config key 'runs\.name' is missing"):
        build(Run, {}, where="runs")
    with pytest.raises(UserError, match=r"^config key 'extra\.learning_rate' is 0 \(int\); allowed: a number > 0$"):
        build(Run, {"name": "x", "extra": {"learning_rate": 0}})
    with pytest.raises(UserError, match=r"^config key 'extra' is 5 \(int\); allowed: a section .* or null$"):
        build(Run, {"name": "x", "extra": 5})


def test_sections_are_validated_innermost_first_also_in_defaults() -> None:
    order: list[str] = []

    @dataclass(frozen=True)
    class Inner:
        def validate(self, where: str) -> None:
            order.append(where)

    @dataclass(frozen=True)
    class Outer:
        first: Any = Inner()
        many: Any = (Inner(),)

        def validate(self, where: str) -> None:
            order.append(where)

    build(Outer, {}, where="top")
    assert order == ["top.first", "top.many[0]", "top"]


def test_a_built_config_survives_yaml(tmp_path: Path) -> None:
    run = make(mode="stop", tags=["off", "1e-3"], weights={"x": 1e-5}, optimiser={"learning_rate": 3e-7})
    plain = to_dict(run)
    assert list(plain) == ["name", "learner", "baselines", "extra"]
    assert plain["learner"]["mode"] == "stop"
    assert type(plain["learner"]["mode"]) is str
    path = tmp_path / "config.yaml"
    path.write_text(dump_yaml(plain))
    assert load_yaml(path) == plain
    assert build(Run, load_yaml(path)) == run


plain_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False)
    | st.text(st.characters(codec="utf-8", exclude_categories=["Cs", "Cc"]))
    | st.sampled_from(["1e-3", "off", "~", "0x1F", "010", "1_000", "<<", "1:30", ".5", "=", "2026-01-01", "y"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("abc", min_size=1), inner, max_size=3),
    max_leaves=8,
)


@given(value=plain_values)
def test_dumped_yaml_reads_back_as_the_same_values(value: Any, tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.getbasetemp() / "round.yaml"
    path.write_text(dump_yaml({"key": value}), encoding="utf-8")
    back = load_yaml(path)["key"]
    assert back == value
    assert type(back) is type(value)


@pytest.mark.parametrize(
    ("text", "line"),
    [("a: 1\nb: [1,\n", 3), ("a: 1\na: 2\n", 2), ("a:\n  b: 1\n  b: 2\n", 3), ("- 1\n", 1), ("a: 1\n? [x]\n: 2\n", 2)],
)
def test_a_bad_file_is_a_user_error_with_path_and_line(tmp_path: Path, text: str, line: int) -> None:
    path = tmp_path / "bad.yaml"
    path.write_text(text)
    with pytest.raises(UserError) as caught:
        load_yaml(path)
    assert str(caught.value).startswith(f"{path}:{line}: ")
    assert "\n" not in str(caught.value)


def test_a_missing_or_unreadable_file_is_a_user_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"cannot read config file '.*none\.yaml': No such file"):
        load_yaml(tmp_path / "none.yaml")
    with pytest.raises(UserError, match="Is a directory"):
        load_yaml(tmp_path)
    (tmp_path / "latin.yaml").write_bytes(b"a: \xff")
    with pytest.raises(UserError, match="not UTF-8"):
        load_yaml(tmp_path / "latin.yaml")
    (tmp_path / "control.yaml").write_bytes(b"a: 1\nb: \x01\n")
    with pytest.raises(UserError, match=r"control\.yaml:2: character #x0001"):
        load_yaml(tmp_path / "control.yaml")
    (tmp_path / "empty.yaml").write_text("")
    assert load_yaml(tmp_path / "empty.yaml") == {}


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-3", 0.001),
        ("1E+2", 100.0),
        ("3", 3),
        ("-0.5", -0.5),
        ("true", True),
        ("off", "off"),
        ("null", None),
        ("", None),
        ("[1, 2e1]", [1, 20.0]),
        ("{x: 1}", {"x": 1}),
        ("'3'", "3"),
        ("a=b", "a=b"),
        ("Question: why", "Question: why"),
        ("010", "010"),
        (".inf", float("inf")),
    ],
)
def test_override_values_are_yaml(text: str, value: Any) -> None:
    result = apply_overrides({"a": {"b": 0, "c": 1}}, [f"a.b={text}"])
    assert result == {"a": {"b": value, "c": 1}}
    assert type(result["a"]["b"]) is type(value)


def test_overrides_make_a_new_mapping_and_the_last_wins() -> None:
    data = {"a": {"b": 1}}
    assert apply_overrides(data, ["a.b=2", "a.b=3", "x.y.z=1"]) == {"a": {"b": 3}, "x": {"y": {"z": 1}}}
    assert data == {"a": {"b": 1}}


@pytest.mark.parametrize("override", ["a.b", "=1", "a..b=1", ".a=1", "a.b=[1", "a.b.c=1"])
def test_a_malformed_override_is_quoted(override: str) -> None:
    with pytest.raises(UserError) as caught:
        apply_overrides({"a": {"b": 1}}, [override])
    assert repr(override) in str(caught.value)


def test_merge_is_deep_and_lists_are_replaced() -> None:
    base = {"a": {"b": 1, "c": [1]}, "d": 1}
    assert merge(base, {"a": {"c": [2]}, "d": {"e": 1}}) == {"a": {"b": 1, "c": [2]}, "d": {"e": 1}}
    assert base == {"a": {"b": 1, "c": [1]}, "d": 1}


def test_first_difference_names_the_key_and_both_values() -> None:
    assert first_difference({"a": {"b": 1}}, {"a": {"b": 1}}) is None
    assert first_difference({"a": {"b": 1, "c": 2}}, {"a": {"b": 1, "c": 3}}) == "'a.c': 2 -> 3"
    assert first_difference({"a": 1}, {"a": True}) == "'a': 1 -> True"
    assert first_difference({"a": 1}, {}) == "'a': 1 -> (absent)"
    assert first_difference({}, {"a": {"b": 1}}) == "'a': (absent) -> {'b': 1}"
    assert first_difference({"a": (1, 2)}, {"a": [1, 2]}) is None


def test_config_imports_neither_torch_nor_ray() -> None:
    code = "import sys, cluster.config, cluster.errors; sys.exit(bool({'torch', 'ray'} & set(sys.modules)))"
    root = Path(__file__).resolve().parents[2]
    assert subprocess.run([sys.executable, "-c", code], cwd=root, timeout=60, check=False).returncode == 0


def test_sections_of_packages_that_cannot_import_this_one_state_limits_in_plain_metadata() -> None:
    @dataclass(frozen=True)
    class Network:
        heads: int = field(default=4, metadata={"minimum": 1})

        def validate(self, where: str) -> None:
            if self.heads % 2:
                raise ValueError(f"config key '{where}.heads' is {self.heads} (int); allowed: an even integer")

    with pytest.raises(UserError, match=r"^config key 'net\.heads' is 0 \(int\); allowed: an integer >= 1$"):
        build(Network, {"heads": 0}, where="net")
    with pytest.raises(UserError, match=r"^config key 'net\.heads' is 3 \(int\); allowed: an even integer$"):
        build(Network, {"heads": 3}, where="net")
