from __future__ import annotations

import json
import math
import pickle
from dataclasses import asdict, fields, replace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load, save

from policy.config import BackboneShape, PolicyConfig
from policy.factory import make_network
from policy.scope import Scope
from policy.weights import FORMAT, WeightsError, fingerprint, from_bytes, load_strictly, to_bytes

SMALL = PolicyConfig(hidden_size=16, feed_forward_size=16, time_embed_size=8)
OTHER: dict[str, Any] = {
    "network": "another", "hidden_size": 32, "feed_forward_size": 32, "num_heads": 1, "num_blocks": 2,
    "time_embed_size": 10, "num_confidences": 2, "confidence_features": "raw", "time_embedding": "legacy",
    "see_block": True, "see_mask": False, "see_time": False,
    "scope": Scope.CANVAS, "initial_logit": -1.0, "distribution": "bernoulli",
    "policy_temperature": 0.5, "backbone": BackboneShape(16, 2, 24), "num_candidates": 3, "candidates_only": True,
    "dpls_stop_logit": 1.0, "dpls_likelihood": "set", "top_k": 2,
}  # fmt: skip
HIDDEN = PolicyConfig(network="dit_hidden", time_embed_size=8, num_blocks=2, backbone=BackboneShape(16, 2, 24))
UPO = PolicyConfig(network="upo", backbone=BackboneShape(16, 2, 24), num_confidences=8, distribution="categorical")


def written(config: PolicyConfig = SMALL, *, seed: int = 0) -> bytes:
    return to_bytes(make_network(config, seed=seed))


def rewritten(tensors: dict[str, torch.Tensor], **metadata: str) -> bytes:
    whole = {"format": FORMAT, "policy": json.dumps(asdict(SMALL))} | metadata
    return save({name: value.contiguous() for name, value in tensors.items()}, whole)


def refusal(data: bytes) -> str:
    with pytest.raises(WeightsError) as caught:
        from_bytes(data, where="runs/a/policy.safetensors")
    message = str(caught.value)
    assert message.startswith("runs/a/policy.safetensors: ")
    assert "\n" not in message
    return message


@pytest.mark.parametrize(
    "config",
    [SMALL, replace(SMALL, num_blocks=2, see_block=True, num_confidences=4, distribution="bernoulli"),
     replace(SMALL, scope=Scope.CANVAS, time_embedding="legacy", confidence_features="raw", policy_temperature=0.5),
     HIDDEN, UPO, replace(SMALL, distribution="top_k", top_k=3)],
)  # fmt: skip
def test_weights_and_architecture_come_back_bit_for_bit(config: PolicyConfig) -> None:
    network = make_network(config, seed=5)
    again = from_bytes(to_bytes(network), where="here")
    assert again.config == config
    assert fingerprint(again.config) == fingerprint(config)
    assert again.state_dict().keys() == network.state_dict().keys()
    for name, value in network.state_dict().items():
        assert torch.equal(again.state_dict()[name].view(torch.int32), value.view(torch.int32))


def test_a_network_of_the_same_architecture_takes_the_weights_in_place() -> None:
    before, after = make_network(SMALL, seed=0), written(seed=1)
    assert from_bytes(after, where="here", reuse=before) is before
    assert to_bytes(before) == after


def test_a_network_of_another_architecture_is_left_alone() -> None:
    other = make_network(replace(SMALL, hidden_size=32), seed=0)
    held = to_bytes(other)
    read = from_bytes(written(), where="here", reuse=other)
    assert read is not other
    assert (to_bytes(read), to_bytes(other)) == (written(), held)


def test_the_same_weights_are_the_same_file() -> None:
    # Checksums name weights: of two runs, and of one version published again after a resume.
    network = make_network(SMALL, seed=0)
    assert len({to_bytes(network) for _ in range(20)}) == 1
    assert to_bytes(from_bytes(to_bytes(network), where="here")) == to_bytes(network)


@given(st.integers(0, 10_000))
def test_a_truncated_file_is_refused(length: int) -> None:
    data = written()
    assert "not a readable safetensors file" in refusal(data[: min(length, len(data) - 1)])


def test_a_file_is_neither_pickle_nor_read_as_one() -> None:
    with pytest.raises((pickle.UnpicklingError, ValueError)):
        pickle.loads(written())  # noqa: S301 - shows that it is not one
    assert "not a readable safetensors file" in refusal(pickle.dumps({"a": 1}))


def test_another_format_is_quoted() -> None:
    tensors = load(written())
    message = refusal(rewritten(tensors, format="dllm-unmasking-policy/9"))
    assert message.endswith(f"format is 'dllm-unmasking-policy/9'; allowed: {FORMAT!r}")
    assert "format is None" in refusal(save(tensors))
    assert "format is 'pt'" in refusal(save(tensors, {"format": "pt"}))


def test_a_file_from_before_a_setting_was_added_takes_its_default() -> None:
    settings = asdict(SMALL)
    for name in ("backbone", "num_candidates", "candidates_only", "dpls_stop_logit", "dpls_likelihood", "top_k"):
        del settings[name]
    assert from_bytes(rewritten(load(written()), policy=json.dumps(settings)), where="here").config == SMALL


def test_an_unknown_network_is_named() -> None:
    settings = json.dumps(asdict(SMALL) | {"network": "dit"})
    message = refusal(rewritten(load(written()), policy=settings))
    assert message.endswith("network is 'dit'; allowed: 'dit_confidence', 'dit_hidden', 'upo'")


def test_reading_takes_no_random_draws() -> None:
    before = torch.random.get_rng_state()
    from_bytes(written(), where="here")
    assert torch.equal(torch.random.get_rng_state(), before)


def test_settings_of_another_version_are_named() -> None:
    settings = json.dumps(asdict(SMALL) | {"num_experts": 4})
    assert "['num_experts']" in refusal(rewritten(load(written()), policy=settings))


@pytest.mark.parametrize(
    ("settings", "quoted"),
    [
        (None, "policy settings are None; needed: a mapping"),
        ([], "policy settings are []; needed: a mapping"),
        ({"hidden_size": "x"}, "policy.hidden_size is 'x'; allowed: int"),
        ({"hidden_size": True}, "policy.hidden_size is True; allowed: int"),
        ({"num_confidences": 0}, "policy.num_confidences is 0; allowed: at least 1"),
        ({"policy_temperature": 0.0}, "policy.policy_temperature is 0.0; allowed: above 0"),
        ({"policy_temperature": math.nan}, "policy.policy_temperature is nan; allowed: a finite number"),
        ({"policy_temperature": math.inf}, "policy.policy_temperature is inf; allowed: a finite number"),
        ({"dpls_stop_logit": -math.inf}, "policy.dpls_stop_logit is -inf; allowed: a finite number"),
        ({"num_heads": 3}, "'policy.hidden_size' is 16; allowed: a multiple of 2 * num_heads = 6"),
        ({"distribution": "foo"}, "policy.distribution is 'foo'; allowed: 'bernoulli', "),
        ({"scope": "all"}, "policy.scope is 'all'; allowed: 'block', 'masked', 'canvas'"),
        ({"policy_temperature": None}, "policy.policy_temperature is None; allowed: a finite number"),
        ({"backbone": 3}, "policy.backbone is 3; allowed: "),
        (
            {"network": "dit_hidden", "backbone": {"hidden_size": 16}},
            "policy.backbone settings ['num_heads', 'feed_forward_size'] are missing",
        ),
        ({"network": "dit_hidden", "backbone": {"depth": 1}}, "policy.backbone settings ['depth'] are unknown"),
        ({"network": "dit_hidden"}, "policy.backbone is null; needed: "),
    ],
)
def test_settings_that_no_policy_has_are_one_line(settings: Any, quoted: str) -> None:
    whole = asdict(SMALL) | settings if isinstance(settings, dict) else settings
    assert quoted in refusal(rewritten(load(written()), policy=json.dumps(whole)))


def test_settings_that_are_no_json_are_one_line() -> None:
    assert "no JSON" in refusal(rewritten(load(written()), policy="{"))


def test_weights_must_be_finite_numbers() -> None:
    tensors = load(written())
    lost = tensors | {"output_proj.bias": torch.full((1,), torch.nan)}
    assert refusal(rewritten(lost)).endswith("tensor 'output_proj.bias' holds values that are not finite")
    whole = tensors | {"output_proj.bias": torch.zeros(1, dtype=torch.int64)}
    assert refusal(rewritten(whole)).endswith("tensor 'output_proj.bias' is torch.int64; needed: floating point")


def test_a_missing_an_extra_and_a_misshapen_tensor_are_named() -> None:
    tensors = load(written())
    without = {name: value for name, value in tensors.items() if name != "final_norm.weight"}
    assert refusal(rewritten(without)).endswith("tensor 'final_norm.weight' is missing")
    extra = tensors | {"value_head.weight": torch.zeros(2)}
    assert refusal(rewritten(extra)).endswith("tensor 'value_head.weight' does not belong to this architecture")
    misshapen = tensors | {"output_proj.weight": torch.zeros(1, 8)}
    assert refusal(rewritten(misshapen)).endswith("tensor 'output_proj.weight' has shape [1, 8]; expected [1, 16]")


def test_a_refused_load_changes_nothing() -> None:
    network = make_network(SMALL, seed=0)
    tensors = {name: value + 1 for name, value in network.state_dict().items()}
    before = {name: value.clone() for name, value in network.state_dict().items()}
    del tensors["transformer_blocks.0.q_proj.bias"]
    with pytest.raises(WeightsError, match="q_proj"):
        load_strictly(network, tensors, where="here")
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())


def test_the_fingerprint_changes_with_every_setting() -> None:
    assert set(OTHER) == {field.name for field in fields(PolicyConfig)}
    prints = {fingerprint(PolicyConfig())} | {
        fingerprint(replace(PolicyConfig(), **{name: value})) for name, value in OTHER.items()
    }
    assert len(prints) == 1 + len(OTHER)
    assert fingerprint(PolicyConfig()) == fingerprint(replace(PolicyConfig()))
    assert fingerprint(PolicyConfig(scope="canvas")) == fingerprint(PolicyConfig(scope=Scope.CANVAS))  # type: ignore[arg-type]
