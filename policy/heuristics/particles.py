"""Self-rewarding sequential Monte Carlo (arXiv 2602.01849): several canvases per row, of which the likelier survive.

Shapes: `B` rows, `L` canvas positions, `V` vocabulary, `N` particles of one row, `M` canvases to look at, `n` positions of one.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from policy.heuristics.choice import by_row
from policy.noise import Stream, uniforms
from policy.observation import Needs, Observation, RowContext
from policy.scope import Scope
from policy.unmasker import NEAR_TIE, Decision


@dataclass(frozen=True, slots=True)
class _Particles:
    """The canvases of one row."""

    canvas_NL: Tensor
    masked_NL: Tensor
    log_weight_N: Tensor
    """float64, since the last resampling."""
    total_N: Tensor
    """float64 log-probability of all that was committed."""

    def select(self, index_N: Tensor) -> _Particles:
        """The chosen particles with equal weights."""
        weight_N = torch.zeros_like(self.log_weight_N)
        return _Particles(self.canvas_NL[index_N], self.masked_NL[index_N], weight_N, self.total_N[index_N])


class ParticleFilter:
    """`particles` canvases decode each block by the threshold rule on the probabilities of tokens drawn at temperature 1.

    A particle's weight is the product of the probabilities of what it committed. When all have finished a block and the effective
    sample size is below half their number, they are drawn anew in proportion to their weights (systematic resampling), which then
    start from 1. The particle with the largest total probability is the answer. Each live particle costs a forward pass; the row
    shows the first that is not done with the block.
    """

    needs = Needs(scope=Scope.BLOCK, log_probs=True, memory=True, lookahead=True, rewrites=True)

    def __init__(self, *, tau: float, particles: int) -> None:
        self._tau = tau
        self._num_particles = particles

    def decide(self, observation: Observation) -> Decision:
        rows = observation.context
        clouds = [self._cloud(rows, observation.masked_BL, row) for row in range(len(rows.canvas_BL))]
        live = [(cloud.masked_NL & rows.window_BL[row]).any(1).nonzero().squeeze(1) for row, cloud in enumerate(clouds)]
        log_probs = self._log_probs(observation, rows, clouds, live)
        B, L = rows.canvas_BL.shape
        noise_BM = uniforms(observation.keys_B, observation.nfe_B, self._num_particles * L + 1, Stream.POLICY)
        near_B = torch.zeros_like(observation.nfe_B)
        canvas_BL, masked_BL = rows.canvas_BL.clone(), observation.masked_BL.clone()
        memory: list[object] = []
        for row, cloud in enumerate(clouds):
            noise_NL = noise_BM[row, :-1].view(self._num_particles, L)
            for particle in live[row].tolist():
                near_B[row] += self._step(
                    cloud, particle, rows.window_BL[row], log_probs[row][particle], noise_NL[particle]
                )
            if not bool((cloud.masked_NL & rows.window_BL[row]).any()):
                cloud = _resampled(cloud, float(noise_BM[row, -1]))
            shown = _shown(cloud, rows.window_BL[row])
            canvas_BL[row], masked_BL[row] = cloud.canvas_NL[shown], cloud.masked_NL[shown]
            memory.append(cloud)
        changed_BL = observation.masked_BL | (canvas_BL != rows.canvas_BL)
        return Decision(
            commit_BL=~masked_BL & changed_BL,
            log_prob_B=torch.zeros(B, device=canvas_BL.device),
            num_near_ties_B=near_B,
            remask_BL=masked_BL & ~observation.masked_BL,
            token_ids_BL=canvas_BL,
            memory=tuple(memory),
        )

    def _cloud(self, rows: RowContext, masked_BL: Tensor, row: int) -> _Particles:
        """The row's particles, as copies that may be written to; at its first pass all are its canvas."""
        N, past = self._num_particles, rows.memory[row]
        if isinstance(past, _Particles):
            return replace(
                past,
                canvas_NL=past.canvas_NL.clone(),
                masked_NL=past.masked_NL.clone(),
                log_weight_N=past.log_weight_N.clone(),
                total_N=past.total_N.clone(),
            )
        canvas_NL, masked_NL = rows.canvas_BL[row].repeat(N, 1), masked_BL[row].repeat(N, 1)
        zero_N = torch.zeros(N, dtype=torch.float64, device=canvas_NL.device)
        return _Particles(canvas_NL, masked_NL, zero_N, zero_N.clone())

    def _log_probs(
        self, observation: Observation, rows: RowContext, clouds: list[_Particles], live: list[Tensor]
    ) -> list[dict[int, Tensor]]:
        """Row -> live particle -> `[n, V]` at its masked positions of the block; the first of a row is what the row shows."""
        assert observation.log_probs_NV is not None, "asked for in `needs`"
        found = [
            {int(live[row][0]): log_probs_nV}
            for row, log_probs_nV in enumerate(by_row(observation.log_probs_NV, observation.eligible_BL))
        ]
        others = [(row, int(particle)) for row, mine in enumerate(live) for particle in mine[1:]]
        if others:
            row_M = torch.tensor([row for row, _ in others], device=rows.canvas_BL.device)
            canvas_ML = torch.stack([clouds[row].canvas_NL[particle] for row, particle in others])
            masked_ML = torch.stack([clouds[row].masked_NL[particle] for row, particle in others])
            wanted_ML = masked_ML & rows.window_BL[row_M]
            seen = rows.lookahead(row_M, canvas_ML, wanted_ML)
            assert seen.log_probs_NV is not None, "asked for in `needs`"
            for (row, particle), log_probs_nV in zip(others, by_row(seen.log_probs_NV, wanted_ML), strict=True):
                found[row][particle] = log_probs_nV
        return found

    def _step(self, cloud: _Particles, particle: int, window_L: Tensor, log_probs_nV: Tensor, noise_L: Tensor) -> int:
        """One pass of one particle, written into `cloud`; returns the near ties."""
        position_n = (cloud.masked_NL[particle] & window_L).nonzero().squeeze(1)
        cumulative_nV = log_probs_nV.double().exp().cumsum(1)
        target_n1 = (noise_L[position_n].double() * cumulative_nV[:, -1]).unsqueeze(1)
        token_n1 = torch.searchsorted(cumulative_nV, target_n1).clamp(max=log_probs_nV.shape[1] - 1)
        log_prob_n = log_probs_nV.double().gather(1, token_n1).squeeze(1)
        probability_n = log_prob_n.exp()
        take_n = probability_n >= self._tau
        take_n[log_prob_n.argmax()] = True
        chosen_n = position_n[take_n]
        cloud.canvas_NL[particle, chosen_n] = token_n1.squeeze(1)[take_n]
        cloud.masked_NL[particle, chosen_n] = False
        gained = log_prob_n[take_n].sum()
        cloud.log_weight_N[particle] += gained
        cloud.total_N[particle] += gained
        gap_n1 = (cumulative_nV - target_n1).abs().amin(1)
        return int(((probability_n - self._tau).abs() < NEAR_TIE).sum() + (gap_n1 < NEAR_TIE).sum())


def _resampled(cloud: _Particles, uniform: float) -> _Particles:
    """After a block: particles drawn by weight where these are too unequal; the finished canvas is not drawn anew."""
    weight_N = cloud.log_weight_N.softmax(0)
    N = len(weight_N)
    if not bool(cloud.masked_NL.any()) or float(1 / weight_N.square().sum()) >= N / 2:
        return cloud
    point_N = (torch.arange(N, dtype=torch.float64, device=weight_N.device) + uniform) / N
    return cloud.select(torch.searchsorted(weight_N.cumsum(0), point_N).clamp(max=N - 1))


def _shown(cloud: _Particles, window_L: Tensor) -> int:
    """The particle that the row shows: the first with work left in the block, else the first; at the end the likeliest."""
    if not bool(cloud.masked_NL.any()):
        return int(cloud.total_N.argmax())
    return int((cloud.masked_NL & window_L).any(1).int().argmax())
