"""The learner ranks as the driver sees them: one update at a time, the same result however often ranks are lost meanwhile.

The state after each update comes back with its reply. A rank that dies, or that hangs past a deadline, ends all ranks: new ones
take the last state and the update is repeated on the same inputs, which in a group of the same size gives the same bytes. Who ends
each wait: the ranks' replies, a rank's death, the others' `learner.collective_deadline_s`, or `learner.update_deadline_s`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import ray
from ray.actor import ActorHandle
from ray.exceptions import ObjectLostError, RayActorError, RayTaskError
from ray.util.placement_group import PlacementGroup, remove_placement_group
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from cluster.errors import DeadlineExceeded, RunFailure
from cluster.logs import get_logger
from cluster.metrics import Metric, reduce
from cluster.runtime import kill_all, reserve, why
from cluster.waiting import Wait
from learner.actor import LearnerRank, RankReply, RankSpec
from learner.checkpoint import POLICY_FILE
from learner.ranks import CollectiveFailed
from learner.update_plan import UpdateRows

_SLICE_S = 1.0

Turn = Callable[[Sequence[Any], float], None]
"""Lets other work go on until one of the references is done, or the seconds are over."""

logger = get_logger(__name__)


class LearnerLost(RunFailure):
    """Learner ranks are lost again and again."""


class TrajectoriesLost(Exception):
    """Lease results that no node of the cluster holds any more."""

    def __init__(self, numbers: Sequence[int]) -> None:
        super().__init__(f"lease results {list(numbers)} are lost")
        self.numbers = list(numbers)


class _RankLost(Exception):
    """Why the present ranks can do no more."""


def wait_only(references: Sequence[Any], timeout_s: float) -> None:
    """A Turn in which there is no other work."""
    ray.wait(list(references), num_returns=1, timeout=timeout_s)


class LearnerGroup:
    """`learner.num_ranks` ranks in one placement group."""

    def __init__(self, spec: RankSpec, *, start_deadline_s: float, tick: Callable[[], None] = lambda: None) -> None:
        """Starts the ranks; `tick` is called while waiting, and what it raises ends the wait."""
        self._spec = spec
        self._start_deadline_s = start_deadline_s
        self._tick = tick
        self._ranks: list[ActorHandle] = []
        self.state: dict[str, bytes] | None = None
        """The trainer's part of a checkpoint, after the last update."""
        self.seconds: dict[str, dict[str, float]] = {}
        """Rank -> its exclusive time states so far."""
        self.num_rebuilt = 0
        config = spec.config
        self._bundle = {"CPU": config.cpus_per_rank, "GPU": config.gpus_per_rank}
        self._place: PlacementGroup = reserve(
            [self._bundle] * config.num_ranks,
            deadline_s=start_deadline_s,
            what=f"{config.num_ranks} learner ranks",
            labels=config.rank_labels,
            tick=tick,
        )
        try:
            self._start("the run's first policy")
        except _RankLost as lost:
            self._rebuild(lost, "their start")

    @property
    def weights(self) -> bytes:
        """The present weights as a policy file."""
        return self.files[POLICY_FILE]

    @property
    def files(self) -> dict[str, bytes]:
        """The trainer's part of a checkpoint."""
        assert self.state is not None, "the ranks have begun"
        return self.state

    def restore(self, files: dict[str, bytes], where: str) -> None:
        """Goes back to a checkpoint."""
        self.state = files
        what = f"{where} to be restored"
        try:
            self._all(lambda rank: rank.restore.remote(files, where), self._start_deadline_s, what, wait_only)
        except _RankLost as lost:
            self._rebuild(lost, what)

    def update(
        self, rows: UpdateRows, references: Sequence[Any], *, imitate: bool, what: str, turn: Turn = wait_only
    ) -> dict[str, Metric]:
        """One update on lease results by reference; returns its metrics.

        Raises TrajectoriesLost when results must be made again (the update may then be repeated), LearnerLost when
        `learner.max_rebuilds` is used up.
        """
        for _ in range(self._spec.config.max_rebuilds + 1):
            try:
                return self._update(rows, references, imitate, what, turn)
            except _RankLost as lost:
                self._rebuild(lost, what)
        raise LearnerLost(
            f"learner ranks were lost {self._spec.config.max_rebuilds + 1} times during {what} "
            f"(learner.max_rebuilds = {self._spec.config.max_rebuilds}); see the actors' logs"
        )

    def close(self) -> None:
        """Ends the ranks and gives their place back."""
        kill_all(self._ranks)
        self._ranks = []
        remove_placement_group(self._place)

    def _update(
        self, rows: UpdateRows, references: Sequence[Any], imitate: bool, what: str, turn: Turn
    ) -> dict[str, Metric]:
        deadline_s = self._spec.config.update_deadline_s
        # In a list, so that Ray passes the references and not what they refer to.
        held = list(references)
        fetched = self._all(
            lambda rank: rank.fetch.remote(rows, held, imitate), deadline_s, f"trajectories of {what}", turn
        )
        if lost := sorted({number for numbers in fetched for number in numbers}):
            raise TrajectoriesLost(lost)
        replies: list[RankReply] = self._all(lambda rank: rank.update.remote(rows, imitate), deadline_s, what, turn)
        if len({reply.digest for reply in replies}) > 1:
            raise RunFailure(f"learner ranks disagree on the weights after {what}; the last checkpoint is good")
        self.state = replies[0].files
        for rank, reply in enumerate(replies):
            total = self.seconds.setdefault(f"learner-{rank}", {})
            for name, seconds in reply.seconds.items():
                total[name] = total.get(name, 0.0) + seconds
        return reduce([reply.metrics for reply in replies])

    def _start(self, where: str) -> None:
        config = self._spec.config
        actor_class: Any = ray.remote(LearnerRank)
        self._ranks = [
            actor_class.options(
                num_cpus=config.cpus_per_rank,
                num_gpus=config.gpus_per_rank,
                # A rank that Ray restarted would have lost its state and its group unseen.
                max_restarts=0,
                scheduling_strategy=PlacementGroupSchedulingStrategy(self._place, placement_group_bundle_index=rank),
            ).remote(self._spec, rank)
            for rank in range(config.num_ranks)
        ]
        what = f"{config.num_ranks} learner ranks to be ready"
        self._all(lambda rank: rank.ready.remote(), self._start_deadline_s, what, wait_only)
        address = None
        if config.num_ranks > 1:
            address = self._replies([self._ranks[0].open_store.remote()], self._start_deadline_s, what, wait_only)[0]
        states = self._all(
            lambda rank: rank.begin.remote(address, self.state, where), self._start_deadline_s, what, wait_only
        )
        self.state = self.state or states[0]

    def _rebuild(self, lost: _RankLost, what: str) -> None:
        """New ranks with the last state; raises LearnerLost when they are lost again and again."""
        for _ in range(self._spec.config.max_rebuilds):
            logger.warning("learner ranks are rebuilt during %s: %s", what, lost)
            self.num_rebuilt += 1
            kill_all(self._ranks)
            try:
                self._start("the state after the last update")
                return
            except _RankLost as again:
                lost = again
        raise LearnerLost(f"learner ranks cannot be started during {what}: {lost}")

    def _all(self, call: Callable[[ActorHandle], Any], deadline_s: float, what: str, turn: Turn) -> list[Any]:
        return self._replies([call(rank) for rank in self._ranks], deadline_s, what, turn)

    def _replies(self, references: Sequence[Any], deadline_s: float, what: str, turn: Turn) -> list[Any]:
        """The ranks' answers in order; raises _RankLost when one died, left the group or is late."""
        wait = Wait(what, deadline_s=deadline_s)
        pending = list(references)
        while pending:
            turn(pending, min(_SLICE_S, wait.remaining_s))
            done, pending = ray.wait(pending, num_returns=len(pending), timeout=0)
            for reference in done:
                self._get(reference)
            if pending:
                self._tick()
                try:
                    wait.check(missing=f"{len(pending)} of {len(references)} ranks")
                except DeadlineExceeded as error:
                    raise _RankLost(str(error)) from error
        return [self._get(reference) for reference in references]

    @staticmethod
    def _get(reference: Any) -> Any:
        try:
            return ray.get(reference)
        except (RayActorError, ObjectLostError) as error:
            raise _RankLost(why(error)) from error
        except RayTaskError as error:
            if isinstance(error.cause, CollectiveFailed):
                raise _RankLost(str(error.cause)) from error
            raise
