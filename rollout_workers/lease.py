"""What goes to rollout actors and graders, and what comes back: plain records, in a module that imports neither torch nor Ray.

A lease names its work completely, so it may be run anywhere and more than once. Trajectories are in `policy.trajectory`.

Shapes: `L` canvas positions.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from policy.behaviour import Behaviour
from policy.heuristics.parameters import Value
from policy.inference import InferenceConfig
from policy.trajectory import TrajectoryRow
from rollout_workers.grading.answers import Grade
from rollout_workers.hosting import model_of
from rollout_workers.tasks.base import Split

NOT_ASKED = -1
"""Guess of a position that the unmasker did not ask the model for."""


@dataclass(frozen=True, slots=True)
class GroupRequest:
    """One prompt to decode `num_samples` times."""

    group: int
    task: str
    split: Split
    index: int
    num_samples: int
    first_sample: int = 0
    """Number of the first sample: above 0 where a step poses one prompt twice, so that no noise is used twice."""
    trace: bool = False
    """Whether its rows are recorded pass by pass, for people to look at."""


@dataclass(frozen=True, slots=True)
class ExpertSpec:
    """A heuristic whose decisions are recorded as the policy would see and score them."""

    heuristic: str
    parameter: float
    block_length: int | None
    """Of the expert alone; None is the policy's."""
    behaviour: Behaviour


@dataclass(frozen=True, slots=True)
class UnmaskerSpec:
    """Which unmasker decodes: a heuristic, the learned policy at a weight version, or an expert that the policy scores."""

    heuristic: str | None = None
    parameter: float | Mapping[str, Value] | None = None
    """Of the heuristic, as in a configuration; of the learned policy its temperature, None for the one it is trained at."""
    weight_version: int = 0
    inference: InferenceConfig = field(default_factory=InferenceConfig)
    """Of the learned policy."""
    expert: ExpertSpec | None = None


@dataclass(frozen=True, slots=True)
class Lease:
    """Work for one actor: groups to decode under one unmasker, in one batch."""

    id: int
    run_seed: int
    unmasker: UnmaskerSpec
    groups: tuple[GroupRequest, ...]
    block_length: int
    record: bool = True
    """Whether decisions are recorded for the learner."""
    alpha: float | None = None
    """Speed exponent of these rows' rewards; None is the run's."""
    canvas_length: int | None = None
    """None is the actor's (`DecodeSettings`)."""

    @property
    def weight_version(self) -> int:
        return self.unmasker.weight_version

    @property
    def model(self) -> str:
        """The model that all its groups are decoded by (`rollout_workers.hosting`)."""
        return model_of(self.groups[0].task)


@dataclass(slots=True)
class EngineStats:
    """Work done by one `decode`."""

    num_steps: int = 0
    num_row_forwards: int = 0
    num_slot_forwards: int = 0
    """Rows that there was room for."""
    num_queued_steps: int = 0
    """Steps taken while rows were waiting."""
    num_queued_row_forwards: int = 0
    num_shared_first_passes: int = 0
    """Of `num_row_forwards`: those that another row's pass stood for."""


@dataclass(frozen=True, slots=True)
class TracedPass:
    """One decision of one row, and the forward pass that it was made on."""

    canvas_L: NDArray[np.int32]
    """Token ids before the pass."""
    guess_L: NDArray[np.int32]
    """The model's token where it was asked for one, else `NOT_ASKED`."""
    confidence_L: NDArray[np.float32]
    """Probability of the guess; meaningless where none was asked for."""
    commit_L: NDArray[np.bool_]
    nfe: int
    """Passes charged up to this decision, those that a sampler looks ahead by included."""


@dataclass(frozen=True, slots=True)
class RowTrace:
    """One decoded row, pass by pass."""

    prompt: str
    passes: tuple[TracedPass, ...]
    final_L: NDArray[np.int32]
    mask_id: int
    pieces: Mapping[int, str]
    """Token id -> its text, for every id that occurs."""


@dataclass(frozen=True, slots=True)
class LeaseSummary:
    """What became of the rows of one lease, in the lease's order; sequences have one entry per row."""

    lease: Lease
    rows: tuple[TrajectoryRow, ...]
    grades: tuple[Grade, ...]
    texts: tuple[str, ...]
    prompt_hashes: tuple[str, ...]
    rewards: tuple[float, ...]
    reward_terms: tuple[dict[str, float], ...]
    """Term -> what it gave the row, unweighted."""
    stats: EngineStats
    seconds: dict[str, float]
    """The rollout actor's exclusive time states since its previous lease."""
    actor: str = ""
    """Who decoded."""
    device: str = ""
    """What it decoded on, in words."""
    weights: str = ""
    """Checksum of the policy file that decided, as the actor had it; empty where a heuristic did."""
    response_lengths: tuple[int, ...] = ()
    """Decoded tokens before the first end of text; given ones do not count."""
    serial_passes: tuple[int, ...] = ()
    """Forward passes one after another; NFE counts those of one batch each."""
    grade_seconds: tuple[float, ...] = ()
    """What each verdict took."""
    traces: Mapping[int, RowTrace] = field(default_factory=dict)
    """Row -> its trace, of the groups that asked for one."""
    is_warm_up: bool = False
    """Whether this was its actor's first lease, whose times are no measure of speed."""
