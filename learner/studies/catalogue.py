"""The studies: which arms, on what, and what is held against what.

Every study compares training settings on the shipped tiny dLLM at a size that a laptop can afford; the published settings
themselves are presets (docs/presets.md).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from learner.studies.arms import StudyArm

SEEDS = (0, 1, 2)
QUICK_SEEDS = (0,)


@dataclass(frozen=True, slots=True)
class Study:
    """One question and its arms."""

    name: str
    question: str
    arms: tuple[StudyArm, ...]
    preset: str = "tiny"
    settings: tuple[str, ...] = ()
    """Of every arm, beneath its own."""
    quick: tuple[str, ...] = ()
    """On top of all, to see the whole in minutes."""
    alpha: float = 1.0
    """Of the reward in the tables."""
    curves: tuple[str, ...] = ()
    """Training metrics to plot against updates."""


_NO_HEURISTICS = "evaluation.heuristics={}"
_AS_TRAINED = "evaluation.policy_temperatures=[]"
_QUICK = (
    "learner.num_steps=12",
    "learner.prompts_per_step=8",
    "checkpoint.every=6",
    "checkpoint.validation_examples=64",
    "evaluation.num_examples=64",
)
_SWEEP = "evaluation.heuristics={random: [8, 16], low_confidence: [4, 8, 16], threshold: [0.15, 0.5, 0.7, 0.9, 0.99]}"

_ABLATIONS = Study(
    name="ablations",
    question="What does each choice of the published policy and reward contribute? (arXiv 2512.09106, ablations)",
    settings=(_NO_HEURISTICS, "learner.num_steps=60"),
    quick=_QUICK,
    arms=(
        StudyArm("base", (_SWEEP,)),
        StudyArm("additive reward", ("reward.terms={additive: 1, multiplicative: 0}",)),
        StudyArm("no mask input", ("policy.see_block=false", "policy.see_mask=false")),
        StudyArm("no time input", ("policy.see_time=false",)),
        StudyArm("top-50 confidences", ("policy.num_confidences=50",)),
        StudyArm("hidden states", ("policy.network=dit_hidden", "policy.see_block=false")),
        StudyArm("DPLS", ("policy.distribution=dpls",)),
        StudyArm("raw confidences", ("policy.confidence_features=raw",)),
    ),
    curves=("reward", "accuracy", "nfe"),
)

_ALPHAS = (0, 0.3, 1, 3, 10)
_BETAS = (0.3, 0.5, 2.0, 4.0)
_TEMPERATURES = (0.25, 0.5, 2.0)


def _without_training(name: str, *settings: str) -> StudyArm:
    return StudyArm(name, (_NO_HEURISTICS, "learner.num_steps=0", *settings), starts_from="alpha 1")


_ALPHA = Study(
    name="alpha",
    question="Does the speed exponent trace a frontier, and do test-time beta and temperature trace it from one policy?",
    settings=("learner.num_steps=60", _NO_HEURISTICS, _AS_TRAINED),
    quick=_QUICK,
    arms=(
        *(
            StudyArm(f"alpha {alpha:g}", (f"reward.alpha={alpha}", *((_SWEEP,) if alpha == 1 else ())))
            for alpha in _ALPHAS
        ),
        *(_without_training(f"beta {beta:g}", f"evaluation.inference.prob_scale={beta}") for beta in _BETAS),
        *(_without_training(f"temperature {t:g}", f"evaluation.policy_temperatures=[{t}]") for t in _TEMPERATURES),
    ),
    curves=("nfe", "accuracy"),
)

_EXPERT = ("learner.steering.parameters=[0.9]", "learner.steering.block_length=16", "learner.clip_low=0.2",
           "learner.clip_high=0.2")  # fmt: skip

_STEERING = Study(
    name="steering",
    question="Does an expert in every group help full diffusion at low alpha, and which cure of its vanishing gradient does?",
    settings=("reward.alpha=0.3", "learner.num_steps=60", _NO_HEURISTICS),
    quick=_QUICK,
    alpha=0.3,
    arms=(
        StudyArm("without", (_SWEEP,)),
        StudyArm("mixture (published)", (*_EXPERT, "learner.steering.mode=mixture")),
        StudyArm("per-decision mixture", (*_EXPERT, "learner.steering.mode=per_decision")),
        StudyArm("policy ratio", (*_EXPERT, "learner.steering.mode=policy_ratio")),
        StudyArm(
            "warm start by imitation",
            ("learner.imitation.num_steps=10", "learner.imitation.parameter=0.9", "learner.imitation.block_length=16"),
        ),
    ),
    curves=("reward", "expert_advantage", "nfe"),
)

_UPO_POLICY = (
    "task=sudoku_infill",
    "policy.network=upo",
    "policy.distribution=categorical",
    "policy.num_confidences=8",
    "policy.see_block=false",
    "reward.terms={dense: 1, correctness: 0}",
    "evaluation.block_lengths=[]",
    "learner.num_iterations=4",
    "learner.num_steps=60",
    _AS_TRAINED,
)
_ONE_TOKEN = "evaluation.heuristics={random: [1], low_confidence: [1], margin: [1], entropy: [1]}"


def _realisation(
    name: str, kind: str, reference: str, parameter: float | None, *extra: str, pretrained: bool
) -> StudyArm:
    settings = [f"learner.regulariser.kind={kind}", f"learner.regulariser.reference={reference}",
                "learner.regulariser.coefficient=0.01", *extra]  # fmt: skip
    if parameter is not None:
        settings.append(f"learner.regulariser.parameter={parameter}")
    if pretrained:
        settings += ["learner.imitation.num_steps=15", "learner.imitation.objective=reference",
                     "learner.imitation.heuristic=low_confidence", "learner.imitation.parameter=1"]  # fmt: skip
    return StudyArm(name, tuple(settings))


_UPO = Study(
    name="upo",
    question="The three realisations of arXiv 2510.05725 on 4x4 Sudoku, one token per pass, against hand-made orders.",
    settings=(*_UPO_POLICY, _NO_HEURISTICS),
    quick=_QUICK,
    alpha=0.0,
    arms=(
        StudyArm("untrained", ("learner.num_steps=0", _ONE_TOKEN)),
        _realisation("softmax-confidence", "kl", "softmax_confidence", 0.05, pretrained=True),
        _realisation("max-confidence", "cross_entropy", "max_confidence", None, pretrained=True),
        _realisation("Top-K", "kl", "top_k", 5, "policy.candidates_only=true", pretrained=False),
    ),
    curves=("reward", "group_reward_std"),
)

STUDIES: Mapping[str, Study] = {study.name: study for study in (_ABLATIONS, _ALPHA, _STEERING, _UPO)}


def names() -> Sequence[str]:
    """Of all studies."""
    return list(STUDIES)
