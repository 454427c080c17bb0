from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest
import torch
from safetensors.torch import load
from torch import Tensor

from policy.config import PolicyConfig
from policy.factory import make_network
from policy.reference import from_reference, reference_bytes
from policy.scope import Scope
from policy.weights import WeightsError
from tests.policy.networks.plain import attention

RAW = PolicyConfig(confidence_features="raw", time_embedding="legacy", scope=Scope.CANVAS, distribution="bernoulli")
SIZES = [
    RAW,
    replace(
        RAW, hidden_size=48, feed_forward_size=40, num_heads=3, num_blocks=2, time_embed_size=10, num_confidences=4
    ),
]
BLOCK = "base_policy.transformer_blocks.0"


def checkpoint(config: PolicyConfig = RAW, *, seed: int = 0) -> dict[str, Tensor]:
    """Random tensors in the release's layout, written down from its shapes alone."""
    H, F, E, K = config.hidden_size, config.feed_forward_size, config.time_embed_size, config.num_confidences
    shapes: dict[str, tuple[int, ...]] = {
        "time_mlp.0.weight": (H, E), "time_mlp.0.bias": (H,), "time_mlp.2.weight": (H, H), "time_mlp.2.bias": (H,),
        "confidence_proj.weight": (H, K), "confidence_proj.bias": (H,), "mask_embedding.weight": (2, H),
        "final_norm.weight": (H,), "final_norm.bias": (H,), "output_proj.weight": (1, H), "output_proj.bias": (1,),
    }  # fmt: skip
    for b in range(config.num_blocks):
        matrices = {"q_proj": (H, H), "k_proj": (H, H), "v_proj": (H, H), "out_proj": (H, H), "linear1": (F, H),
                    "linear2": (H, F), "ada_conditioning": (6 * H, H)}  # fmt: skip
        for name, shape in matrices.items():
            shapes |= {f"transformer_blocks.{b}.{name}.weight": shape, f"transformer_blocks.{b}.{name}.bias": shape[:1]}
        for name in ("norm1", "norm2"):
            shapes |= {f"transformer_blocks.{b}.{name}.{kind}": (H,) for kind in ("weight", "bias")}
    generator = torch.Generator().manual_seed(seed)
    tensors = {
        f"base_policy.{name}": torch.randn(shape, generator=generator) / math.sqrt(H) for name, shape in shapes.items()
    }
    size = H // config.num_heads
    frequencies = 1.0 / (10000 ** (torch.arange(0, size, 2).float() / size))
    return tensors | {
        f"base_policy.transformer_blocks.{b}.inv_freq": frequencies.clone() for b in range(config.num_blocks)
    }


def refusal(tensors: Mapping[str, Tensor], **settings: Any) -> str:
    with pytest.raises(WeightsError) as caught:
        from_reference(tensors, where="model.safetensors", **settings)
    assert "\n" not in str(caught.value)
    return str(caught.value).removeprefix("model.safetensors: ")


@pytest.mark.parametrize("config", SIZES, ids=["published", "another size"])
def test_a_checkpoint_there_and_back_is_the_same_bit_for_bit(config: PolicyConfig) -> None:
    tensors = checkpoint(config)
    network = from_reference(tensors, where="here")
    assert network.config == config
    back = load(reference_bytes(network, where="here"))
    assert back.keys() == tensors.keys()
    for name, value in tensors.items():
        assert back[name].dtype == torch.float32
        assert torch.equal(back[name].view(torch.int32), value.view(torch.int32)), name


def test_a_policy_there_and_back_is_the_same_bit_for_bit() -> None:
    network = make_network(RAW, seed=3)
    again = from_reference(load(reference_bytes(network, where="here")), where="here")
    assert again.config == network.config
    for name, value in network.state_dict().items():
        assert torch.equal(again.state_dict()[name], value)


def test_the_file_names_its_framework_and_counts_the_frequencies() -> None:
    data = reference_bytes(make_network(RAW, seed=0), where="here")
    length = int.from_bytes(data[:8], "little")
    assert b'"__metadata__":{"format":"pt"}' in data[8 : 8 + length]
    assert sum(value.numel() for value in load(data).values()) == 331_297


def reference_forward(w: Mapping[str, Tensor], m: Tensor, c: Tensor, t: Tensor, *, num_heads: int) -> Tensor:
    """The release's forward pass on its own tensors, in float64."""
    w = {name.removeprefix("base_policy."): value.double() for name, value in w.items()}

    def linear(name: str, x: Tensor) -> Tensor:
        return x @ w[f"{name}.weight"].T + w[f"{name}.bias"]

    def norm(name: str, x: Tensor) -> Tensor:
        centred = x - x.mean(-1, keepdim=True)
        return (
            centred / (centred.square().mean(-1, keepdim=True) + 1e-5).sqrt() * w[f"{name}.weight"] + w[f"{name}.bias"]
        )

    half = w["time_mlp.0.weight"].shape[1] // 2
    clock = torch.stack([t.cos(), t.sin()], 1).float().bfloat16().double().repeat_interleave(half, 1)
    inner = linear("time_mlp.0", clock)
    cond = w["mask_embedding.weight"][m.long()] + linear("time_mlp.2", inner * torch.sigmoid(inner)).unsqueeze(1)
    x = linear("confidence_proj", c)
    for b in range(sum(name.endswith("inv_freq") for name in w)):
        block = f"transformer_blocks.{b}"
        gamma1, beta1, alpha1, gamma2, beta2, alpha2 = linear(f"{block}.ada_conditioning", cond).chunk(6, -1)
        h = norm(f"{block}.norm1", x) * (1 + gamma1) + beta1
        q, k, v = (linear(f"{block}.{kind}_proj", h) for kind in "qkv")
        x = x + (1 + alpha1) * linear(f"{block}.out_proj", attention(q, k, v, num_heads=num_heads))
        h = linear(f"{block}.linear1", norm(f"{block}.norm2", x) * (1 + gamma2) + beta2)
        x = x + (1 + alpha2) * linear(f"{block}.linear2", h * (1 + torch.erf(h / math.sqrt(2))) / 2)
    return linear("output_proj", norm("final_norm", x)).squeeze(-1)


@pytest.mark.parametrize("config", SIZES, ids=["published", "another size"])
def test_a_converted_policy_computes_what_the_release_computes(config: PolicyConfig) -> None:
    tensors = {name: value if name.endswith("inv_freq") else 2 * value for name, value in checkpoint(config).items()}
    generator = torch.Generator().manual_seed(1)
    masked = torch.rand(3, 20, generator=generator) < 0.6
    confidences = torch.rand(3, 20, config.num_confidences, generator=generator, dtype=torch.float64)
    time = torch.rand(3, generator=generator, dtype=torch.float64)
    network = from_reference(tensors, where="here").double()
    with torch.no_grad():
        got = network(masked, masked, confidences, time)
    expected = reference_forward(tensors, masked, confidences, time, num_heads=config.num_heads)
    assert float(got.std()) > 0.05
    # Rotary angles are computed in float32.
    torch.testing.assert_close(got, expected, rtol=0, atol=1e-5)


def test_heads_are_read_off_the_frequencies_and_otherwise_said() -> None:
    config = SIZES[1]
    assert from_reference(checkpoint(config), where="here").config.num_heads == 3
    without = {name: value for name, value in checkpoint(config).items() if not name.endswith("inv_freq")}
    assert from_reference(without, where="here").config.num_heads == 2
    assert from_reference(without, where="here", num_heads=6).config.num_heads == 6
    expected = f"tensor '{BLOCK}.inv_freq' has shape [8]; expected [4]"
    assert refusal(checkpoint(config), num_heads=6) == expected
    assert (
        refusal(without, num_heads=5)
        == "config key 'policy.hidden_size' is 48; allowed: a multiple of 2 * num_heads = 10"
    )


def test_settings_that_no_shape_tells_may_be_said() -> None:
    config = from_reference(
        checkpoint(), where="here", time_embedding="sinusoidal", distribution="bernoulli_argmax", policy_temperature=0.5
    ).config
    assert config == replace(RAW, time_embedding="sinusoidal", distribution="bernoulli_argmax", policy_temperature=0.5)


def test_other_float_types_are_widened() -> None:
    tensors = {name: value.bfloat16() for name, value in checkpoint().items()}
    network = from_reference(tensors, where="here")
    weight = network.state_dict()["output_proj.weight"]
    assert torch.equal(weight, tensors["base_policy.output_proj.weight"].float())


def test_a_mismatch_is_named_with_its_shape() -> None:
    tensors = checkpoint()

    def changed(name: str, value: Tensor | None) -> dict[str, Tensor]:
        rest = {key: tensor for key, tensor in tensors.items() if key != name}
        return rest if value is None else rest | {name: value}

    three = changed("base_policy.mask_embedding.weight", torch.zeros(3, 128))
    assert refusal(three) == "tensor 'base_policy.mask_embedding.weight' has shape [3, 128]; expected [2, 128]"
    wide = changed(f"{BLOCK}.linear2.weight", torch.zeros(128, 256))
    assert refusal(wide) == f"tensor '{BLOCK}.linear2.weight' has shape [128, 256]; expected [128, 512]"
    flat = changed("base_policy.confidence_proj.weight", torch.zeros(128))
    assert refusal(flat) == "tensor 'base_policy.confidence_proj.weight' has shape [128]; expected a matrix"
    for name in ("base_policy.confidence_proj.weight", f"{BLOCK}.norm1.bias", f"{BLOCK}.linear1.weight"):
        assert refusal(changed(name, None)) == f"tensor '{name}' is missing"
    for name in ("base_policy.value_head.weight", "confidence_proj.weight"):
        assert refusal(changed(name, torch.zeros(2))) == f"tensor '{name}' does not belong to this architecture"
    lost = changed("base_policy.output_proj.bias", torch.full((1,), torch.nan))
    assert refusal(lost) == "tensor 'base_policy.output_proj.bias' holds values that are not finite"
    whole = changed("base_policy.output_proj.bias", torch.zeros(1, dtype=torch.int64))
    assert refusal(whole) == "tensor 'base_policy.output_proj.bias' is torch.int64; needed: floating point"
    assert "expected a divisor of half the hidden size, 64" in refusal(changed(f"{BLOCK}.inv_freq", torch.ones(5)))
    other_base = changed(f"{BLOCK}.inv_freq", 500_000 ** -(torch.arange(32) / 32))
    assert refusal(other_base) == f"tensor '{BLOCK}.inv_freq' holds other rotary frequencies than those of base 10000"
    assert refusal({"model.weight": torch.zeros(1)}).endswith("is missing")


@pytest.mark.parametrize(
    ("settings", "quoted"),
    [
        (
            {"confidence_features": "raw_and_log_odds"},
            "'confidence_features' is 'raw_and_log_odds'; allowed in a reference",
        ),
        (
            {"time_embedding": "sinusoidal"},
            "'time_embedding' is 'sinusoidal'; allowed in a reference checkpoint: 'legacy'",
        ),
        ({"see_block": True}, "'see_block' is True; allowed in a reference checkpoint: False"),
        ({"see_mask": False}, "'see_mask' is False; allowed in a reference checkpoint: True"),
        ({"see_time": False}, "'see_time' is False; allowed in a reference checkpoint: True"),
        ({"scope": Scope.MASKED}, "'scope' is 'masked'; allowed in a reference checkpoint: 'canvas'"),
        ({"distribution": "categorical"}, "'categorical'; allowed in a reference checkpoint: 'bernoulli', "),
    ],
)
def test_what_the_release_cannot_run_is_not_written(settings: dict[str, Any], quoted: str) -> None:
    network = make_network(replace(RAW, hidden_size=16, feed_forward_size=16, time_embed_size=8, **settings), seed=0)
    with pytest.raises(WeightsError, match=r"^here: policy setting ") as caught:
        reference_bytes(network, where="here")
    assert quoted in str(caught.value)
