"""The studies: which arms, on what, and what is held against what.

Every study compares training settings on the shipped tiny dLLM at a size that a laptop can afford; the published settings
themselves are presets (docs/presets.md).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from learner.studies.arms import Need, StudyArm

SEEDS = (0, 1, 2)
QUICK_SEEDS = (0,)


@dataclass(frozen=True, slots=True)
class Gap:
    """What a policy loses on something that it was not trained on, and what training on a mixture gets back. Names of arms."""

    own: str
    """Trained on it."""
    moved: str
    mixture: str


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
    baseline: str = ""
    """An arm, or a sampler in its best setting, that every reward in the tables is held against."""
    pass_at: tuple[int, ...] = ()
    """N of the Pass@N in the tables; problems are decoded under at least so many noise seeds."""
    gaps: tuple[Gap, ...] = ()
    pairs: tuple[tuple[str, str], ...] = ()
    """Names of an arm and of the arm that it differs from in one setting, where that is not the baseline."""


_SIZE = (
    "learner.num_steps=32",
    "learner.prompts_per_step=16",
    "checkpoint.every=16",
    "checkpoint.validation_examples=128",
    "evaluation.block_lengths=[16, 48]",
)
"""Two minutes of training on 2 cores, and a policy near that of the preset."""
_NO_HEURISTICS = "evaluation.heuristics={}"
_AS_TRAINED = "evaluation.policy_temperatures=[]"
_QUICK = (
    "learner.num_steps=6",
    "learner.prompts_per_step=8",
    "checkpoint.every=6",
    "checkpoint.validation_examples=32",
    "evaluation.num_examples=64",
    "evaluation.policy_temperatures=[]",
)
_SWEEP = (
    "evaluation.heuristics={random: [16], low_confidence: [4, 16], threshold: [0.15, 0.5, 0.7, 0.9, 0.99], factor: [2, 5]}",
    "evaluation.block_lengths=[8, 16, 24, 48]",
)
_FEW_HEURISTICS = (
    "evaluation.heuristics={threshold: [0.15, 0.5, 0.9], factor: [5]}",
    "evaluation.block_lengths=[16, 24, 48]",
)

_PUZZLES = "Sudoku with 4 or 5 givens, trained at alpha = 10"
_FAST_PUZZLES = ("task=sudoku_hard_infill", "reward.alpha=10", "evaluation.block_lengths=[24]")
_PUZZLE_SWEEP = "evaluation.heuristics={threshold: [0.3, 0.7, 0.9, 0.99]}"

_EVERYWHERE = ("policy.scope=canvas", "policy.see_block=false")
_RAW, _NO_MASK = "policy.confidence_features=raw", "policy.see_mask=false"

_ABLATIONS = Study(
    name="ablations",
    question="What does each choice of the published policy and reward contribute? (arXiv 2512.09106, ablations)",
    settings=(*_SIZE, _NO_HEURISTICS, _AS_TRAINED),
    quick=_QUICK,
    arms=(
        StudyArm("base", sweep=_SWEEP),
        # Arithmetic is right two times in three after a single pass: nothing is lost there by being as fast as can be.
        StudyArm("additive reward", (*_FAST_PUZZLES, "reward.terms={additive: 1, multiplicative: 0}"), on=_PUZZLES),
        StudyArm("multiplicative reward", _FAST_PUZZLES, sweep=(_PUZZLE_SWEEP,), on=_PUZZLES),
        # Where only masked positions are predicted, a confidence of 1 gives away which ones are committed.
        StudyArm("predictions everywhere", _EVERYWHERE),
        StudyArm("no mask input", (*_EVERYWHERE, _NO_MASK)),
        StudyArm("raw confidences everywhere", (*_EVERYWHERE, _RAW)),
        StudyArm("raw confidences everywhere, no mask input", (*_EVERYWHERE, _RAW, _NO_MASK)),
        StudyArm("no time input", ("policy.see_time=false",)),
        StudyArm("top-50 confidences", ("policy.num_confidences=50",)),
        StudyArm("hidden states", ("policy.network=dit_hidden", "policy.see_block=false")),
        StudyArm("DPLS", ("policy.distribution=dpls",)),
        StudyArm("raw confidences", (_RAW,)),
    ),
    baseline="base",
    curves=("reward", "accuracy", "nfe"),
    pairs=(
        ("no mask input", "predictions everywhere"),
        ("raw confidences everywhere, no mask input", "raw confidences everywhere"),
        ("additive reward", "multiplicative reward"),
    ),
)

_MASK = Study(
    name="mask",
    question="Hiding which positions are masked, the worst published ablation, with six times the episodes of `ablations`.",
    settings=(
        "learner.num_steps=100",
        "learner.prompts_per_step=32",
        "checkpoint.every=20",
        "evaluation.block_lengths=[16, 48]",
        _NO_HEURISTICS,
        _AS_TRAINED,
        *_EVERYWHERE,
    ),
    quick=_QUICK,
    arms=(
        StudyArm("raw confidences", (_RAW,)),
        StudyArm("raw confidences, no mask input", (_RAW, _NO_MASK)),
        StudyArm("log-odds too"),
        StudyArm("log-odds too, no mask input", (_NO_MASK,)),
    ),
    curves=("reward", "accuracy", "nfe"),
    pairs=(
        ("raw confidences, no mask input", "raw confidences"),
        ("log-odds too, no mask input", "log-odds too"),
    ),
)

_ALPHAS = (0, 0.3, 1, 3, 10)
_BETAS = (0.3, 0.5, 2.0, 4.0)
_TEMPERATURES = (0.25, 0.5, 2.0)


def _without_training(name: str, *settings: str) -> StudyArm:
    return StudyArm(name, (_NO_HEURISTICS, "learner.num_steps=0", *settings), starts_from="alpha 1")


_ALPHA = Study(
    name="alpha",
    question="Does the speed exponent trace a frontier, and do test-time beta and temperature trace it from one policy?",
    settings=(*_SIZE, _NO_HEURISTICS, _AS_TRAINED),
    quick=_QUICK,
    arms=(
        *(
            StudyArm(f"alpha {alpha:g}", (f"reward.alpha={alpha}",), sweep=_SWEEP if alpha == 1 else ())
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
    settings=(*_SIZE, "reward.alpha=0.3", _NO_HEURISTICS, _AS_TRAINED),
    quick=_QUICK,
    alpha=0.3,
    arms=(
        StudyArm("without", sweep=_SWEEP),
        StudyArm("mixture (published)", (*_EXPERT, "learner.steering.mode=mixture")),
        StudyArm("per-decision mixture", (*_EXPERT, "learner.steering.mode=per_decision")),
        StudyArm("policy ratio", (*_EXPERT, "learner.steering.mode=policy_ratio")),
        StudyArm(
            "warm start by imitation",
            ("learner.imitation.num_steps=10", "learner.imitation.parameter=0.9", "learner.imitation.block_length=16"),
        ),
    ),
    baseline="without",
    curves=("reward", "expert_advantage", "nfe"),
)

_UPO_POLICY = (
    "task=sudoku_hard_infill",
    "policy.network=upo",
    "policy.distribution=categorical",
    "policy.num_confidences=8",
    "policy.see_block=false",
    "reward.terms={dense: 1, correctness: 0}",
    "evaluation.block_lengths=[]",
    "learner.num_iterations=4",
    "evaluation.seeds=[0, 1, 2, 3, 4, 5, 6, 7]",
    _AS_TRAINED,
)
_ONE_TOKEN = "evaluation.heuristics={random: [1], low_confidence: [1], margin: [1], entropy: [1]}"


def _realisation(
    name: str, kind: str, reference: str, parameter: float | None, *extra: str, pretrained: bool
) -> StudyArm:
    settings = [f"learner.regulariser.kind={kind}", f"learner.regulariser.reference={reference}",
                "learner.regulariser.coefficient=0.0001", *extra]  # fmt: skip
    if parameter is not None:
        settings.append(f"learner.regulariser.parameter={parameter}")
    if pretrained:
        settings += ["learner.imitation.num_steps=100", "learner.imitation.objective=reference",
                     "learner.imitation.heuristic=low_confidence", "learner.imitation.parameter=1"]  # fmt: skip
    return StudyArm(name, tuple(settings))


def _greedy(name: str, *settings: str) -> StudyArm:
    settings = ("learner.num_steps=0", "evaluation.inference.selection=greedy", *settings)
    return StudyArm(f"{name}, greedy", settings, starts_from=name)


_UPO = Study(
    name="upo",
    question="The three realisations of arXiv 2510.05725 on 4x4 Sudoku with 4 or 5 givens, one token per pass, against hand-made "
    "orders; each policy drawn as in training, and greedily.",
    settings=(*_SIZE, *_UPO_POLICY, _NO_HEURISTICS),
    quick=(*_QUICK, "checkpoint.every=50"),
    alpha=0.0,
    arms=(
        StudyArm("untrained", ("learner.num_steps=0",), sweep=(_ONE_TOKEN,)),
        _realisation("softmax-confidence", "output_kl", "softmax_confidence", 0.05, pretrained=True),
        _realisation("max-confidence", "cross_entropy", "max_confidence", None, pretrained=True),
        _realisation("Top-K", "output_kl", "top_k", 5, "policy.candidates_only=true", pretrained=False),
        _greedy("softmax-confidence"),
        _greedy("max-confidence"),
        _greedy("Top-K", "policy.candidates_only=true"),
    ),
    baseline="low_confidence",
    curves=("reward", "group_reward_std"),
    pass_at=(1, 2, 4, 8),
)

SECOND = Need(
    Path("runs/tiny-second/checkpoint"),
    "python -m rollout_workers.models.tiny.pretrain --recipe second",
    "about half an hour on 2 cores, resumable",
)
_ON_SECOND = f"model.name={SECOND.path}"
_HOST_SECOND = f"models={{second: {{name: {SECOND.path}}}}}"
_SUDOKU = ("task=sudoku", "decode.canvas_length=48")
_SUDOKU_24 = ("task=sudoku", "decode.canvas_length=24", "evaluation.block_lengths=[24]")
ARITHMETIC, OTHER, SUDOKU = "arithmetic, shipped dLLM", "arithmetic, second dLLM", "sudoku, shipped dLLM, canvas 48"


def _moved(source: str, on: str, *settings: str, need: Need | None = None) -> StudyArm:
    return StudyArm(f"{source} -> {on}", ("learner.num_steps=0", *settings), starts_from=source, on=on, need=need)


_TRANSFER = Study(
    name="transfer",
    question="What does a policy lose on another dLLM, on twice the canvas and on another task, and what does one run on a mixture "
    "of dLLMs and tasks get back? All policies have the same number of updates.",
    settings=(*_SIZE, _NO_HEURISTICS, _AS_TRAINED),
    quick=_QUICK,
    arms=(
        StudyArm("arithmetic", sweep=_FEW_HEURISTICS, on=ARITHMETIC),
        StudyArm("sudoku", _SUDOKU, sweep=_FEW_HEURISTICS, on=SUDOKU),
        StudyArm("sudoku, canvas 24", _SUDOKU_24, on="sudoku, shipped dLLM, canvas 24"),
        StudyArm("second", (_ON_SECOND,), sweep=_FEW_HEURISTICS, on=OTHER, need=SECOND),
        StudyArm(
            "mixture",
            (
                "task={arithmetic: 1, sudoku: 1, arithmetic@second: 1}",
                "decode.canvas_length=48",
                _HOST_SECOND,
                "evaluation.num_examples=64",
            ),
            on="all three, a third of the problems each",
            need=SECOND,
        ),
        _moved("sudoku", ARITHMETIC),
        _moved("second", ARITHMETIC, need=SECOND),
        _moved("mixture", ARITHMETIC, need=SECOND),
        _moved("arithmetic", OTHER, _ON_SECOND, need=SECOND),
        _moved("mixture", OTHER, _ON_SECOND, need=SECOND),
        _moved("arithmetic", SUDOKU, *_SUDOKU),
        _moved("sudoku, canvas 24", SUDOKU, *_SUDOKU),
        _moved("mixture", SUDOKU, *_SUDOKU, need=SECOND),
    ),
    curves=("reward", "accuracy", "nfe"),
    gaps=(
        Gap("arithmetic", f"second -> {ARITHMETIC}", f"mixture -> {ARITHMETIC}"),
        Gap("arithmetic", f"sudoku -> {ARITHMETIC}", f"mixture -> {ARITHMETIC}"),
        Gap("second", f"arithmetic -> {OTHER}", f"mixture -> {OTHER}"),
        Gap("sudoku", f"arithmetic -> {SUDOKU}", f"mixture -> {SUDOKU}"),
        Gap("sudoku", f"sudoku, canvas 24 -> {SUDOKU}", f"mixture -> {SUDOKU}"),
    ),
)

_CACHED_SWEEP = "evaluation.heuristics={threshold: [0.15, 0.5, 0.7, 0.9]}"
_NO_TRAINING = ("learner.num_steps=0", "learner.imitation.num_steps=0")


def _cached(name: str, mode: str, *settings: str, starts_from: str | None = None) -> StudyArm:
    sweep = (_CACHED_SWEEP,) if starts_from is None else ()
    return StudyArm(name, (f"decode.cache={mode}", *settings), starts_from=starts_from, sweep=sweep, on=_CACHE[mode])


_CACHE = {"none": "full passes", "prefix": "a prefix cache", "dual": "a dual cache"}
_CACHE_STUDY = Study(
    name="cache",
    question="What does a policy lose where it decodes with kept keys and values, and what does training it there get back?",
    preset="tiny_blocks",
    settings=(_NO_HEURISTICS, "policy.scope=block", "evaluation.block_lengths=[16]"),
    quick=(*_QUICK, "learner.imitation.num_steps=6"),
    arms=(
        _cached("full passes", "none"),
        _cached("dual cache", "dual"),
        _cached(f"full passes -> {_CACHE['dual']}", "dual", *_NO_TRAINING, starts_from="full passes"),
        _cached("prefix cache", "prefix"),
        _cached(f"full passes -> {_CACHE['prefix']}", "prefix", *_NO_TRAINING, starts_from="full passes"),
    ),
    curves=("reward", "accuracy", "nfe"),
    pairs=(
        (f"full passes -> {_CACHE['dual']}", "full passes"),
        ("dual cache", f"full passes -> {_CACHE['dual']}"),
        (f"full passes -> {_CACHE['prefix']}", "full passes"),
        ("prefix cache", f"full passes -> {_CACHE['prefix']}"),
    ),
)

STUDIES: Mapping[str, Study] = {
    study.name: study for study in (_ABLATIONS, _MASK, _ALPHA, _STEERING, _UPO, _TRANSFER, _CACHE_STUDY)
}
"""In the order of docs/studies.md."""
