from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest

from cluster.config import build, to_dict
from cluster.errors import UserError
from policy.config import BackboneShape, PolicyConfig
from policy.scope import Scope

SHAPE = {"hidden_size": 64, "num_heads": 2, "feed_forward_size": 96}
HIDDEN: dict[str, Any] = {"network": "dit_hidden"}


def test_absent_keys_take_the_published_size() -> None:
    config = build(PolicyConfig, {})
    assert config == PolicyConfig()
    sizes = (config.hidden_size, config.feed_forward_size, config.num_heads, config.num_blocks, config.time_embed_size)
    assert sizes == (128, 512, 2, 1, 128)
    assert (config.initial_logit, config.policy_temperature) == (-2.0, 1.0)


def test_values_survive_the_way_through_plain_data() -> None:
    config = PolicyConfig(scope=Scope.CANVAS, time_embedding="legacy", distribution="bernoulli", num_confidences=50)
    assert build(PolicyConfig, to_dict(config)) == config
    assert build(PolicyConfig, {"scope": "block"}).scope is Scope.BLOCK
    hidden = PolicyConfig(network="upo", backbone=BackboneShape(**SHAPE), distribution="categorical")
    assert build(PolicyConfig, to_dict(hidden)) == hidden


def test_the_shape_of_the_backbone_is_the_model_s() -> None:
    shape = BackboneShape(**SHAPE)
    assert PolicyConfig().for_backbone(shape) == PolicyConfig().for_backbone(None) == PolicyConfig()
    filled = build(PolicyConfig, HIDDEN).for_backbone(shape)
    assert filled.backbone == shape
    assert filled.reads_hidden
    assert filled.for_backbone(shape) == filled
    # Another block of the model's width is the user's own choice.
    assert filled.for_backbone(BackboneShape(64, 8, 512)) == filled
    with pytest.raises(ValueError, match=r"^config key 'policy.backbone.hidden_size' is 64; allowed: the model's, 32$"):
        filled.for_backbone(BackboneShape(32, 2, 64))
    with pytest.raises(ValueError, match=r"^config key 'a.network' is 'dit_hidden'; allowed: 'dit_confidence' with a"):
        filled.for_backbone(None, where="a")


@pytest.mark.parametrize(
    ("values", "quoted", "allowed"),
    [
        ({"network": "dit"}, "'policy.network' is 'dit'", "'dit_confidence'"),
        ({"hidden_size": 7}, "'policy.hidden_size' is 7", "an integer >= 8"),
        ({"hidden_size": 130}, "'policy.hidden_size' is 130", "a multiple of 2 * num_heads = 4"),
        ({"hidden_size": 16.0}, "'policy.hidden_size' is 16.0", "an integer >= 8"),
        ({"feed_forward_size": 0}, "'policy.feed_forward_size' is 0", "an integer >= 8"),
        ({"num_heads": 0}, "'policy.num_heads' is 0", "an integer >= 1"),
        ({"num_blocks": 0}, "'policy.num_blocks' is 0", "an integer >= 1"),
        ({"time_embed_size": 9}, "'policy.time_embed_size' is 9", "an even number"),
        ({"time_embed_size": 0}, "'policy.time_embed_size' is 0", "an integer >= 2"),
        ({"num_confidences": 0}, "'policy.num_confidences' is 0", "an integer >= 1"),
        ({"confidence_features": "log"}, "'policy.confidence_features' is 'log'", "'raw_and_log_odds'"),
        ({"time_embedding": "none"}, "'policy.time_embedding' is 'none'", "'legacy', 'sinusoidal'"),
        ({"see_block": "yes"}, "'policy.see_block' is 'yes'", "true or false"),
        ({"scope": "all"}, "'policy.scope' is 'all'", "'block', 'masked', 'canvas'"),
        ({"initial_logit": "low"}, "'policy.initial_logit' is 'low'", "a number"),
        ({"distribution": "dpl"}, "'policy.distribution' is 'dpl'", "'bernoulli', 'bernoulli_argmax', 'dpls', 'top_k'"),
        ({"distribution": "threshold"}, "'policy.distribution' is 'threshold'", "'bernoulli'"),
        ({"dpls_likelihood": "sum"}, "'policy.dpls_likelihood' is 'sum'", "'order', 'set'"),
        ({"dpls_stop_logit": "low"}, "'policy.dpls_stop_logit' is 'low'", "a number"),
        ({"top_k": 0, "distribution": "top_k"}, "'policy.top_k' is 0", "an integer >= 1"),
        ({"distribution": "top_k"}, "'policy.top_k' is None", "an integer >= 1 with distribution 'top_k'"),
        ({"top_k": 2}, "'policy.top_k' is 2", "null with distribution 'bernoulli_argmax'"),
        ({"top_k": 2, "distribution": "categorical"}, "'policy.top_k' is 2", "null with distribution 'categorical'"),
        ({"network": "upo"}, "'policy.distribution' is 'bernoulli_argmax'", "'categorical' with network 'upo'"),
        ({"num_candidates": 0}, "'policy.num_candidates' is 0", "an integer >= 1"),
        ({"candidates_only": True}, "'policy.candidates_only' is True", "False with distribution 'bernoulli_argmax'"),
        ({"backbone": SHAPE}, "'policy.backbone' is set, but network 'dit_confidence' reads no hidden states", "null"),
        (
            HIDDEN | {"backbone": SHAPE | {"hidden_size": 66}},
            "'policy.backbone.hidden_size' is 66",
            "2 * num_heads = 4",
        ),
        (HIDDEN | {"backbone": {"hidden_size": 64}}, "'policy.backbone.num_heads' is missing", "an integer >= 1"),
        ({"policy_temperature": 0}, "'policy.policy_temperature' is 0", "a number > 0"),
        ({"policy_temperature": float("nan")}, "'policy.policy_temperature' is nan", "a number > 0"),
    ],
)
def test_a_bad_value_is_quoted_with_what_is_allowed(values: dict[str, Any], quoted: str, allowed: str) -> None:
    with pytest.raises(UserError) as caught:
        build(PolicyConfig, values, where="policy")
    message = str(caught.value)
    assert message.startswith(f"config key {quoted}")
    assert allowed in message.partition("; allowed: ")[2]
    assert "\n" not in message


def test_the_schema_needs_neither_torch_nor_ray() -> None:
    code = "import sys, policy.config, policy.inference; print(sorted({'torch', 'ray', 'numpy'} & set(sys.modules)))"
    output = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert output.stdout.strip() == "[]"
