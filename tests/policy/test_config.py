from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest

from cluster.config import build, to_dict
from cluster.errors import UserError
from policy.config import PolicyConfig
from policy.scope import Scope


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
        ({"distribution": "dpls"}, "'policy.distribution' is 'dpls'", "'bernoulli', 'bernoulli_argmax'"),
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
    code = "import sys, policy.config; print(sorted({'torch', 'ray', 'numpy'} & set(sys.modules)))"
    output = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert output.stdout.strip() == "[]"
