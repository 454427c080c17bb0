"""Every sampler by name: what it does, its source, its parameters and their defaults. The first parameter is the swept one."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

from policy.heuristics.adaptive_blocks import AdaptiveBlocks
from policy.heuristics.calibrated import Calibrated
from policy.heuristics.credit import Credit
from policy.heuristics.dilated import Dilated
from policy.heuristics.entropy_bounded import EntropyBounded
from policy.heuristics.hierarchical import Hierarchical
from policy.heuristics.information_gain import InformationGain
from policy.heuristics.ordered import Entropy, LeftToRight, LowConfidence, Margin, RandomOrder
from policy.heuristics.parameters import Parameter, choice, integer, number, probability, text
from policy.heuristics.particles import ParticleFilter
from policy.heuristics.revision import WideIn
from policy.heuristics.stable import Stable
from policy.heuristics.thresholds import Factor, Threshold
from policy.heuristics.verified_prefix import VerifiedPrefix
from policy.unmasker import Unmasker


@dataclass(frozen=True, slots=True)
class HeuristicKind:
    """How one sampler is made."""

    description: str
    source: str
    parameters: tuple[Parameter, ...]
    build: Callable[..., Unmasker]
    """Called with every parameter by name, and with `resources` where `takes_resources`."""
    is_random: bool = False
    takes_resources: bool = False
    is_expert: bool = False
    """Whether a policy can learn from its decisions: they depend on confidences, entropies and margins alone."""
    eos_controls: tuple[str, ...] = ("allow", "never", "last")
    """Without `last`: it does not order positions by the model's confidence in them."""

    @property
    def parameter(self) -> str:
        """The swept one: what a bare number in a configuration sets."""
        return self.parameters[0].name

    @property
    def eos(self) -> Parameter:
        """The parameter that every sampler has."""
        return choice("eos", self.eos_controls, "'never' forbids the end of text, 'last' commits it last")


_FIXED = ("allow", "never")
_K = integer("k", 1, "positions per pass")
_GAMMA = number("gamma", 0.1, "bound on the entropies, in nats", zero=True)
_TAU = probability("tau", 0.9, "confidence that is enough")

HEURISTICS: Mapping[str, HeuristicKind] = {
    "random": HeuristicKind(
        "k random positions",
        "arXiv 2502.09992",
        (_K,),
        RandomOrder,
        is_random=True,
        is_expert=True,
        eos_controls=_FIXED,
    ),
    "low_confidence": HeuristicKind(
        "the k most confident positions", "arXiv 2502.09992", (_K,), LowConfidence, is_expert=True
    ),
    "threshold": HeuristicKind(
        "every confidence of at least tau", "Fast-dLLM, arXiv 2505.22618", (_TAU,), Threshold, is_expert=True
    ),
    "margin": HeuristicKind(
        "the k positions whose two likeliest tokens are furthest apart",
        "arXiv 2502.06768",
        (_K,),
        Margin,
        is_expert=True,
    ),
    "entropy": HeuristicKind(
        "the k positions of least entropy", "Dream, arXiv 2508.15487", (_K,), Entropy, is_expert=True
    ),
    "factor": HeuristicKind(
        "the n most confident positions with (n + 1)(1 - c_n) < factor",
        "Fast-dLLM, arXiv 2505.22618",
        (number("factor", 1.0, "bound"),),
        Factor,
        is_expert=True,
    ),
    "left_to_right": HeuristicKind(
        "the k leftmost positions", "autoregressive order", (_K,), LeftToRight, is_expert=True, eos_controls=_FIXED
    ),
    **{
        f"eb_{proxy}": HeuristicKind(
            f"as many as their entropies allow, in the order of {proxy}",
            "EB-Sampler, arXiv 2505.24857",
            (_GAMMA,),
            partial(EntropyBounded, proxy=proxy),
            is_expert=True,
        )
        for proxy in ("entropy", "confidence", "margin")
    },
    "dus": HeuristicKind(
        "a fixed schedule, positions of a block far apart first",
        "DUS, arXiv 2506.19037",
        (integer("base", 2, "each stage is that much denser", minimum=2),),
        Dilated,
        eos_controls=_FIXED,
    ),
    "klass": HeuristicKind(
        "confident and unchanged over the last passes",
        "KLASS, arXiv 2511.05664",
        (
            _TAU,
            number("kl", 0.01, "divergence between passes that counts as unchanged, in nats"),
            integer("history", 2, "passes"),
            integer("k", 1, "positions where none is ready"),
        ),
        Stable,
    ),
    "pc": HeuristicKind(
        "confidence calibrated by token frequency, the left first",
        "PC-Sampler, arXiv 2508.13021",
        (
            _K,
            number("decay", 0.25, "of the weight per position", zero=True),
            number("clip", 10.0, "largest calibrated confidence"),
            text("background", "", "JSON file of token counts; empty is the model's own"),
        ),
        Calibrated,
        takes_resources=True,
    ),
    "adablock": HeuristicKind(
        "threshold, in blocks that end at a predicted delimiter",
        "AdaBlock-dLLM, arXiv 2509.26432",
        (
            _TAU,
            probability("delimiter_tau", 0.3, "confidence at which a delimiter ends the block"),
            text("delimiter", "\n", "the token"),
        ),
        AdaptiveBlocks,
        takes_resources=True,
    ),
    "hierarchical": HeuristicKind(
        "the best of every gap above low, and all above tau",
        "dInfer, arXiv 2510.08666",
        (_TAU, probability("low", 0.4, "confidence below which a gap waits")),
        Hierarchical,
        is_expert=True,
    ),
    "credit": HeuristicKind(
        "threshold, on logits with a bonus for what was likely before",
        "dInfer, arXiv 2510.08666",
        (
            _TAU,
            number("alpha", 0.7, "weight of the bonus", zero=True),
            number("gain", 0.2, "power of the probability that is credited", zero=True),
            probability("decay", 0.8, "of the credit per pass"),
        ),
        Credit,
        eos_controls=_FIXED,
    ),
    "info_gain": HeuristicKind(
        "the candidate that leaves the rest least uncertain; one pass per candidate",
        "arXiv 2602.18176",
        (
            probability("tau", 0.8, "all are committed where every confidence is at least that"),
            integer("candidates", 8, "positions to look ahead from"),
            number("position_temperature", 0.2, "of the draw of candidates"),
        ),
        InformationGain,
        is_random=True,
    ),
    "smc": HeuristicKind(
        "particles, resampled by their own likelihood after each block; one pass per particle",
        "self-rewarding SMC, arXiv 2602.01849",
        (_TAU, integer("particles", 4, "canvases per row")),
        ParticleFilter,
        is_random=True,
        eos_controls=_FIXED,
    ),
    "wino": HeuristicKind(
        "drafts above tau, takes back below tau_back",
        "WINO, arXiv 2507.18578",
        (
            probability("tau", 0.6, "confidence that is drafted"),
            probability("tau_back", 0.9, "verified probability below which a token is masked again"),
        ),
        WideIn,
    ),
    "apd": HeuristicKind(
        "left to right, as far as a causal model agrees; one pass of it per pass",
        "APD, arXiv 2506.00413",
        (
            probability("ratio", 0.5, "weight of the dLLM against the causal model"),
            integer("lookahead", 100, "positions that one pass may commit"),
            text("model", "", "folder or hub id of a causal model with the dLLM's vocabulary; must be given"),
        ),
        VerifiedPrefix,
        takes_resources=True,
        eos_controls=_FIXED,
    ),
}

EXPERTS = tuple(name for name, kind in HEURISTICS.items() if kind.is_expert)
"""Those that a policy can learn from."""
