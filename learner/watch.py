"""Failure signatures watched while training: each is a named alarm with the cure in it.

What `Watch` says depends on the sequence of records alone, so replaying a run's metrics brings back its state. A metric
that is absent, or a mean of nothing (NaN), leaves the streaks of the signatures that need it as they were. Records of
validation alone, and the `validation_*` values of others, change nothing.
"""

from __future__ import annotations

import math
import statistics
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from cluster.config import setting

_Record = Mapping[str, float]

_ALMOST_ONE_PASS = 1.25
"""Passes per block of a policy that commits nearly whole blocks at once."""
_NORM_HISTORY = 20
"""Updates in the running median of the gradient norm; at least, for it must outlast a window of bad ones."""


@dataclass(frozen=True)
class WatchConfig:
    """When an update looks sick; all bounds but those that say so must be broken for `window` updates in a row."""

    enabled: bool = setting(True, help="false watches nothing: not even a loss that is not finite ends the run")
    window: int = setting(
        5, help="consecutive updates that a signature must hold: longer than the spikes of healthy runs", minimum=1
    )
    hacked_accuracy: float = setting(
        0.1, help="reward_hacking: 'near zero'; healthy runs start far above it", minimum=0.0, maximum=1.0
    )
    hacked_accuracy_of_start: float = setting(
        0.7,
        help="reward_hacking: accuracy over that of the first update, for tasks where a pass or two is often right",
        minimum=0.0,
    )
    hacked_nfe_of_start: float = setting(
        0.25,
        help="reward_hacking: collapsed NFE over that of the first update; good policies get there too, but accurate",
        minimum=0.0,
    )
    hacked_nfe_of_canvas: float = setting(
        0.05, help="reward_hacking: collapsed NFE over the canvas length, for runs that start collapsed", minimum=0.0
    )
    max_empty_share: float = setting(
        0.75,
        help="empty_actions: an untrained Bernoulli policy has 0.35 to 0.67 at its usual start",
        minimum=0.0,
        maximum=1.0,
    )
    max_zero_variance_share: float = setting(
        0.8, help="zero_variance: 0 to 0.3 at first, up to 0.7 late in a healthy run", minimum=0.0, maximum=1.0
    )
    max_first_ratio_gap: float = setting(
        1e-4, help="ratio_drift, at once: the contract of re-scoring; float32 noise is below 1e-5", minimum=0.0
    )
    max_kl: float = setting(
        0.5,
        help="ratio_drift: KL(old || new) per decision after the first iteration, or between the weights that decided and those "
        "that learn; healthy medians are below 0.2",
        minimum=0.0,
    )
    max_clipped_share: float = setting(
        0.3, help="ratio_drift: decisions whose ratio is cut; healthy runs peak near 0.25", minimum=0.0, maximum=1.0
    )
    min_entropy: float = setting(
        0.05,
        help="entropy_collapse: nats per decision, here 99 in 100 decisions of a state are alike",
        minimum=0.0,
    )
    solved_accuracy: float = setting(
        0.95, help="from here on, low entropy or variance is success and not collapse", minimum=0.0, maximum=1.0
    )
    max_step_limit_share: float = setting(
        0.05,
        help="leftover_masks: none where every pass commits; a few under plain Bernoulli",
        minimum=0.0,
        maximum=1.0,
    )
    max_grad_norm_ratio: float = setting(
        20.0,
        help="divergence: gradient norm over its running median; lone spikes, which are clipped, may exceed it",
        above=1.0,
    )


@dataclass(frozen=True, slots=True)
class Alarm:
    """A failure signature that has just come to hold."""

    name: str
    step: int
    message: str
    """One line: what was seen, the likely cause, and the cure."""
    is_fatal: bool = False
    """No later update can mend it."""


class Watch:
    """Looks at the record of each update, in order."""

    def __init__(self, config: WatchConfig, canvas_length: int, *, block_length: int | None = None) -> None:
        """`block_length` is the policy's, below `canvas_length` where it decodes in blocks."""
        self._config = config
        self._canvas_length = canvas_length
        self._num_blocks = canvas_length // (block_length or canvas_length)
        self._start: _Record | None = None
        self._norms: deque[float] = deque(maxlen=max(_NORM_HISTORY, 4 * config.window))
        window = config.window
        self._finite = _Signature("divergence", ("loss", "grad_norm", "kl"), _not_finite, is_fatal=True, known=any)
        self._signatures = (
            _Signature("reward_hacking", ("nfe", "accuracy"), self._reward_hacking, window),
            _Signature("empty_actions", ("empty_share",), self._empty_actions, window),
            _Signature("zero_variance", ("zero_variance_share", "accuracy"), self._zero_variance, window),
            _Signature("ratio_drift", ("first_ratio_gap",), self._rescoring_gap),
            _Signature("ratio_drift", ("kl", "clipped_share"), self._ratio_drift, window),
            _Signature("ratio_drift", ("stale_kl",), self._stale_drift, window),
            _Signature("entropy_collapse", ("commit_entropy", "accuracy"), self._entropy_collapse, window),
            _Signature("leftover_masks", ("step_limit_share",), self._leftover_masks, window),
            _Signature("divergence", ("grad_norm",), self._exploding_norm, window),
        )

    def observe(self, step: int, record: Mapping[str, float]) -> list[Alarm]:
        """The alarms that the update `step` raises: once each, and again only after a signature has gone and come back.

        Updates that imitate have no rewards, and losses of another scale: of these only non-finite values are reported.
        An update with such a value says nothing else.
        """
        if not self._config.enabled:
            return []
        alarms = self._finite.observe(step, record)
        if "imitation_loss" in record or _not_finite(record):
            return alarms
        known = {name: value for name, value in record.items() if not math.isnan(value)}
        if self._start is None and {"nfe", "accuracy"} <= known.keys():
            self._start = {name: known[name] for name in ("nfe", "accuracy")}
        for signature in self._signatures:
            alarms += signature.observe(step, known)
        if "grad_norm" in known:
            self._norms.append(known["grad_norm"])
        return alarms

    def _reward_hacking(self, record: _Record) -> str | None:
        config, nfe, accuracy, start = self._config, record["nfe"], record["accuracy"], self._start
        assert start is not None
        bound = max(
            config.hacked_nfe_of_start * start["nfe"],
            config.hacked_nfe_of_canvas * self._canvas_length,
            _ALMOST_ONE_PASS * self._num_blocks,
        )
        if nfe > bound or accuracy > max(config.hacked_accuracy, config.hacked_accuracy_of_start * start["accuracy"]):
            return None
        return (
            f"NFE {nfe:.3g} (first {start['nfe']:.3g}, canvas {self._canvas_length}) at accuracy {accuracy:.3g} (first "
            f"{start['accuracy']:.3g}): the reward pays for fast wrong answers; set reward.terms to "
            "{multiplicative: 1.0} in place of 'additive', or lower reward.alpha; where the reward is that already, "
            "lower learner.learning_rate or add experts with learner.steering.parameters"
        )

    def _empty_actions(self, record: _Record) -> str | None:
        share = record["empty_share"]
        if share <= self._config.max_empty_share:
            return None
        return (
            f"{share:.0%} of the decisions commit nothing and waste their forward pass: every unmasking probability is "
            "low; set policy.distribution=bernoulli_argmax, which always commits one position, or raise "
            "policy.initial_logit"
        )

    def _zero_variance(self, record: _Record) -> str | None:
        share, accuracy = record["zero_variance_share"], record["accuracy"]
        if share <= self._config.max_zero_variance_share:
            return None
        seen = f"{share:.0%} of the groups have rewards without variance at accuracy {accuracy:.3g}, and teach nothing:"
        if accuracy >= self._config.solved_accuracy:
            return f"{seen} the task is solved; stop, take harder problems, or raise reward.alpha to go on with speed"
        if accuracy <= self._config.hacked_accuracy:
            return (
                f"{seen} hardly any rollout is right; add experts with learner.steering.parameters, warm up with "
                "learner.imitation.num_steps, or raise learner.group_size"
            )
        return (
            f"{seen} the rollouts of a group are too alike; raise learner.group_size or learner.prompts_per_step, or "
            "keep the policy exploring with learner.entropy_bonus"
        )

    def _rescoring_gap(self, record: _Record) -> str | None:
        gap, bound = record["first_ratio_gap"], self._config.max_first_ratio_gap
        if gap <= bound:
            return None
        return (
            f"re-scoring before the first optimiser step is off by a ratio of {gap:.3g} (bound {bound:g}): other "
            "weights, inputs or numerics than those that decided; check that learner and workers run the same code, "
            "and where only the numerics differ set model.dtype=float32"
        )

    def _ratio_drift(self, record: _Record) -> str | None:
        kl, clipped = record["kl"], record["clipped_share"]
        if kl <= self._config.max_kl and clipped <= self._config.max_clipped_share:
            return None
        return (
            f"later iterations reach a KL of {kl:.3g} per decision with {clipped:.0%} of the ratios clipped: one "
            "update moves the policy too far; lower learner.learning_rate or learner.num_iterations, or raise "
            "learner.prompts_per_step"
        )

    def _stale_drift(self, record: _Record) -> str | None:
        kl = record["stale_kl"]
        if kl <= self._config.max_kl:
            return None
        return (
            f"the weights that decided are a KL of {kl:.3g} per decision from those that learn: rollouts are too old for the "
            "pace of learning; lower learner.max_weight_lag, learner.learning_rate or learner.num_iterations"
        )

    def _entropy_collapse(self, record: _Record) -> str | None:
        entropy, accuracy = record["commit_entropy"], record["accuracy"]
        if entropy >= self._config.min_entropy or accuracy >= self._config.solved_accuracy:
            return None
        return (
            f"entropy of {entropy:.3g} nats per decision at accuracy {accuracy:.3g}: the policy stopped exploring "
            "while there is something to gain; raise learner.entropy_bonus, lower learner.learning_rate, or add "
            "experts with learner.steering.parameters"
        )

    def _leftover_masks(self, record: _Record) -> str | None:
        share = record["step_limit_share"]
        if share <= self._config.max_step_limit_share:
            return None
        return (
            f"{share:.0%} of the rows end at the step limit with masks left: too many passes commit nothing; set "
            "policy.distribution=bernoulli_argmax, which always commits one position, or raise policy.initial_logit"
        )

    def _exploding_norm(self, record: _Record) -> str | None:
        norm = record["grad_norm"]
        median = statistics.median(self._norms) if len(self._norms) >= self._config.window else 0.0
        # A median of 0 is a run without a signal so far: nothing to compare with.
        if median == 0 or norm <= self._config.max_grad_norm_ratio * median:
            return None
        return (
            f"gradient norm {norm:.3g}, {norm / median:.0f} times its running median of {median:.3g}: the updates are "
            "unstable; lower learner.learning_rate or learner.max_grad_norm, or raise learner.warmup_steps or "
            "learner.prompts_per_step"
        )


@dataclass(slots=True)
class _Signature:
    """One failure and for how many updates in a row it has been seen."""

    name: str
    needs: tuple[str, ...]
    see: Callable[[_Record], str | None]
    """What is wrong with an update, in one line; None where nothing is."""
    window: int = 1
    is_fatal: bool = False
    known: Callable[[Iterable[bool]], bool] = all
    """How many of `needs` must be there for an update to count as healthy or sick."""
    streak: int = 0

    def observe(self, step: int, record: _Record) -> list[Alarm]:
        """The alarm, on the update that completes the window."""
        if not self.known(name in record for name in self.needs):
            return []
        message = self.see(record)
        self.streak = 0 if message is None else self.streak + 1
        if message is None or self.streak != self.window:
            return []
        held = f"{self.window} updates in a row: " if self.window > 1 else ""
        return [Alarm(self.name, step, held + message, self.is_fatal)]


def _not_finite(record: _Record) -> str | None:
    """The norm is that of the first iteration, or of the first whose is not finite: that one lost the weights."""
    bad = [name for name in ("loss", "grad_norm", "kl") if not math.isfinite(record.get(name, 0.0))]
    if not bad:
        return None
    seen = ", ".join(f"{name}={record[name]}" for name in bad)
    return (
        f"{seen}: the weights are lost; start a new run from the last checkpoint's policy with learner.initial_policy, and "
        "lower learner.learning_rate, learner.num_iterations or learner.max_grad_norm"
    )
