"""Choices that exclude each other are one clear line, before anything is loaded."""

from __future__ import annotations

from pathlib import Path

import pytest

from cluster.errors import UserError
from learner.compatibility import _COUNTING
from learner.experts import check_experts, read_initial_policy
from learner.main import resolve
from policy.config import PolicyConfig
from policy.factory import EXPERTS, HEURISTICS, make_network
from policy.weights import to_bytes

PULLED = ("learner.regulariser.kind=kl", "learner.regulariser.coefficient=0.1")
STEERED = "learner.steering.parameters=[0.9]"


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ([STEERED, "policy.distribution=dpls"], r"'learner\.steering\.parameters' is \[0\.9\]; allowed: \[\] with distr.*'order'"),
        ([STEERED, "policy.distribution=categorical"], "gives an expert's set no likelihood"),
        (
            [STEERED, "policy.distribution=dpls", "policy.dpls_likelihood=set", "learner.steering.mode=per_decision"],
            "'per_decision'; allowed: 'mixture', 'policy_ratio'",
        ),
        (
            ["policy.distribution=categorical", "learner.imitation.num_steps=2"],
            r"'threshold' with parameter 0\.9; allowed: low_confidence, random, margin, .* with parameter 1",
        ),
        (["policy.distribution=top_k", "policy.top_k=2", "learner.imitation.num_steps=2"], "is 2; allowed: 0 with .*'top_k'"),
        (["policy.distribution=dpls", "learner.imitation.num_steps=2"], "num_steps' is 2; allowed: 0 with distribution 'dpls'"),
        (
            [*PULLED, "learner.regulariser.reference=softmax_confidence", "learner.regulariser.parameter=1"],
            r"learner\.regulariser",
        ),
        ([*PULLED, "learner.regulariser.reference=random"], "'random'.*allowed: one of 'threshold', 'soft_"),
        ([*PULLED, "learner.regulariser.parameter=1.5"], "1.5"),
        (
            ["policy.distribution=categorical", "evaluation.inference.prob_scale=2"],
            r"'evaluation\.inference\.prob_scale' is 2; allowed: 1",
        ),
        (["decode.cache=dual"], r"'policy\.scope' is 'masked'; allowed with decode\.cache=dual: block$"),
        (["decode.cache=prefix", "policy.scope=canvas"], "'canvas'; allowed with decode.cache=prefix: block, masked$"),
        (
            ["decode.cache=prefix", "model.remote_code=true", "model.name=own/model"],
            r"'decode\.cache' is 'prefix'; allowed: 'none' with the own code of model 'own/model'",
        ),
        (["learner.regulariser.kind=kl"], r"'learner\.regulariser\.coefficient' is 0; allowed: above 0 with .*kind=kl"),
        (
            [STEERED, "learner.regulariser.kind=output_kl", "learner.regulariser.coefficient=0.1"],
            r"'learner\.regulariser\.kind' is 'output_kl'; allowed: .*steering\.parameters=\[0\.9\]",
        ),
        (
            ["policy.distribution=categorical", "policy.candidates_only=true", "learner.imitation.num_steps=2",
             "learner.imitation.heuristic=random", "learner.imitation.parameter=1"],
            r"'policy\.candidates_only' is True; allowed: False with learner\.imitation\.objective=decisions",
        ),
        (["learner.regulariser.coefficient=0.1"], r"'learner\.regulariser\.coefficient' is 0\.1; allowed: 0 with .*kind=none"),
        ([STEERED, "learner.ratio=trajectory"], r"'learner\.ratio' is 'trajectory'; allowed: 'step' with .*=\[0\.9\]"),
        (
            ["learner.ratio=trajectory", "learner.max_weight_lag=1"],
            r"'learner\.stale_correction' is 'decoupled'; allowed: 'clip' with learner\.ratio=trajectory",
        ),
        (["model.device=potato"], r"'model\.device' is 'potato'; allowed: cpu, cuda, "),
        (["learner.device=cuda"], r"'learner\.gpus_per_rank' is 0, but learner\.device is 'cuda'; allowed: a number > 0"),
        (["model.device=cuda:0"], r"'rollout\.gpus_per_worker' is 0, but model\.device is 'cuda:0'"),
        (["policy.network=dit_hidden", "policy.num_confidences=4", "policy.see_block=false"], "4; allowed: 1 with network 'dit_h"),
        (
            ["policy.network=upo", "policy.distribution=categorical", "policy.see_block=true"],
            "True; allowed: False with network 'upo'",
        ),
        (["policy.see_mask=false"], r"'policy\.see_block' is True; allowed: False where see_mask is False"),
    ],
)  # fmt: skip
def test_the_first_choice_that_another_rules_out_is_named(settings: list[str], says: str) -> None:
    with pytest.raises(UserError, match=says) as caught:
        resolve(settings)
    assert "\n" not in str(caught.value)


def test_experts_must_exist_and_fit_into_the_blocks() -> None:
    with pytest.raises(
        UserError, match=r"learner\.steering\.heuristic' is 'nope': unknown heuristic 'nope'; allowed: random, low_conf"
    ) as caught:
        check_experts(resolve([STEERED, "learner.steering.heuristic=nope"]), block_length=48)
    assert "klass" not in str(caught.value)
    with pytest.raises(
        UserError, match=r"'learner\.steering\.heuristic' is 'threshold\(foo=1\)': .*foo.*; allowed: .*eos"
    ):
        check_experts(resolve([STEERED, "learner.steering.heuristic=threshold(foo=1)"]), block_length=48)
    with pytest.raises(
        UserError, match=r"'learner\.steering\.block_length' is 7; allowed: a divisor of the policy's block length 48"
    ):
        check_experts(resolve([STEERED, "learner.steering.block_length=7"]), block_length=48)
    with pytest.raises(UserError, match=r"'learner\.imitation\.parameter'"):
        check_experts(resolve(["learner.imitation.num_steps=1", "learner.imitation.parameter=2"]), block_length=48)
    check_experts(resolve([STEERED, "learner.steering.block_length=16"]), block_length=48)


def test_the_mixture_takes_experts_that_always_decide_the_same_each_once() -> None:
    drawn = ["learner.steering.heuristic=random", "learner.steering.parameters=[4, 4]"]
    with pytest.raises(
        UserError, match=r"'learner\.steering\.mode' is 'mixture'; allowed: 'policy_ratio' with .*=random"
    ):
        check_experts(resolve(drawn), block_length=48)
    check_experts(resolve([*drawn, "learner.steering.mode=policy_ratio"]), block_length=48)
    with pytest.raises(UserError, match=r"'learner\.steering\.parameters' is \[0\.9, 0\.9\]; allowed: each value once"):
        check_experts(resolve(["learner.steering.parameters=[0.9, 0.9]"]), block_length=48)


def test_the_heuristics_that_count_positions_are_those_of_the_registry() -> None:
    assert set(_COUNTING) == {name for name in EXPERTS if HEURISTICS[name].parameter == "k"}


@pytest.mark.parametrize("heuristic", _COUNTING)
def test_one_position_per_decision_can_be_imitated_by_a_policy_of_one_position(heuristic: str) -> None:
    resolve(
        ["policy.distribution=categorical", "learner.imitation.num_steps=2", "learner.imitation.parameter=1",
         f"learner.imitation.heuristic={heuristic}"]
    )  # fmt: skip


def test_a_policy_to_start_from_must_be_there_whole_and_of_the_same_architecture(tmp_path: Path) -> None:
    path = tmp_path / "policy.safetensors"
    config = resolve([f"learner.initial_policy={path}"])
    with pytest.raises(UserError, match=r"'learner\.initial_policy' is .*No such file"):
        read_initial_policy(config)
    path.write_bytes(b"no policy")
    with pytest.raises(UserError, match="not a readable safetensors file"):
        read_initial_policy(config)
    path.write_bytes(to_bytes(make_network(PolicyConfig(hidden_size=16, feed_forward_size=16), seed=0)))
    with pytest.raises(UserError, match=r"of another architecture \('policy\.hidden_size': 16 -> 64\)"):
        read_initial_policy(config)
    data = to_bytes(make_network(config.policy, seed=0))
    path.write_bytes(data)
    assert read_initial_policy(config) == data
    assert read_initial_policy(resolve([])) is None
