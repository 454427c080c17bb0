"""Every sampler as slowly and obviously as possible: one row at a time, plain Python over positions and tokens.

It shares with the samplers only the model's `predict`, from which it takes whole distributions, and the noise.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch

from policy.noise import Stream
from rollout_workers.models.base import FrozenDLLM
from tests.rollout_workers.oracle import Outcome, Row, noise


@dataclass
class Seen:
    """The distribution at one position."""

    log_probs: list[float]

    @property
    def token(self) -> int:
        return self.log_probs.index(max(self.log_probs))

    @property
    def p(self) -> float:
        return math.exp(max(self.log_probs))

    @property
    def margin(self) -> float:
        best, second = sorted(self.log_probs, reverse=True)[:2]
        return math.exp(best) - math.exp(second)

    @property
    def entropy(self) -> float:
        return -sum(math.exp(each) * each for each in self.log_probs if each > -math.inf)


@dataclass
class Pass:
    """What a rule is told of one pass of one row."""

    model: FrozenDLLM
    row: Row
    canvas: list[int]
    masked: list[int]
    start: int
    end: int
    seen: dict[int, Seen]
    written: set[int]
    nfe: int
    state: dict[str, Any]
    extra: int = 0

    @property
    def eligible(self) -> list[int]:
        return [i for i in self.masked if self.start <= i < self.end]

    def best(self) -> int:
        return min(self.eligible, key=lambda i: (-self.seen[i].p, i))

    def look(self, canvas: list[int]) -> dict[int, Seen]:
        """Another canvas, for one more pass."""
        self.extra += 1
        return look(self.model, self.row, canvas, self.banned)

    banned: tuple[int, ...] = ()

    def draws(self, num: int) -> list[float]:
        return noise(self.row.key, self.nfe, num, Stream.POLICY)


@dataclass
class Chosen:
    """A decision: position -> token, and what is masked again."""

    commit: dict[int, int]
    remask: set[int] = field(default_factory=set)


Rule = Callable[..., Chosen]


@torch.no_grad()
def look(model: FrozenDLLM, row: Row, canvas: list[int], banned: tuple[int, ...] = ()) -> dict[int, Seen]:
    """The model's distributions at all masks of one canvas."""
    wanted = torch.tensor([[token == model.spec.mask_id for token in canvas]])
    prediction = model.predict(
        torch.tensor([row.prompt], dtype=torch.int64), torch.tensor([len(row.prompt)]), torch.tensor([canvas]), wanted,
        with_log_probs=True, banned_ids=banned,
    )  # fmt: skip
    assert prediction.log_probs_NV is not None
    positions = wanted[0].nonzero().flatten().tolist()
    return {i: Seen(each) for i, each in zip(positions, prediction.log_probs_NV.tolist(), strict=True)}


def decode_with(model: FrozenDLLM, rule: Rule, row: Row, *, banned: tuple[int, ...] = (), **parameters: Any) -> Outcome:
    """One row decoded by `rule` in the row's blocks."""
    mask, L = model.spec.mask_id, len(row.canvas)
    canvas, order = list(row.canvas), [-1 if token == mask else 0 for token in row.canvas]
    state: dict[str, Any] = {}
    nfe = steps = 0
    while mask in canvas and steps < (L if row.step_limit is None else row.step_limit):
        start = canvas.index(mask) // row.block_length * row.block_length
        masked = [i for i in range(L) if canvas[i] == mask]
        written = {i for i in range(L) if order[i] > 0}
        seen = look(model, row, canvas, banned)
        end = start + row.block_length
        view = Pass(model, row, list(canvas), masked, start, end, seen, written, nfe, state, banned=banned)
        chosen = rule(view, **parameters)
        nfe, steps = nfe + 1 + view.extra, steps + 1
        for i, token in chosen.commit.items():
            canvas[i], order[i] = token, nfe
        for i in chosen.remask:
            canvas[i], order[i] = mask, -1
    return Outcome(canvas, order, "clean" if mask not in canvas else "step_limit", nfe)


def take(view: Pass, positions: list[int]) -> Chosen:
    return Chosen({i: view.seen[i].token for i in positions})


def above(view: Pass, tau: float, eligible: list[int] | None = None) -> list[int]:
    eligible = view.eligible if eligible is None else eligible
    return [i for i in eligible if view.seen[i].p >= tau] or [min(eligible, key=lambda i: (-view.seen[i].p, i))]


def k_best(view: Pass, k: int, key: Callable[[int], float]) -> Chosen:
    return take(view, sorted(view.eligible, key=lambda i: (key(i), i))[:k])


def random(view: Pass, k: int) -> Chosen:
    draws = view.draws(len(view.canvas))
    return k_best(view, k, lambda i: -draws[i])


def low_confidence(view: Pass, k: int) -> Chosen:
    return k_best(view, k, lambda i: -view.seen[i].p)


def margin(view: Pass, k: int) -> Chosen:
    return k_best(view, k, lambda i: -view.seen[i].margin)


def entropy(view: Pass, k: int) -> Chosen:
    return k_best(view, k, lambda i: view.seen[i].entropy)


def left_to_right(view: Pass, k: int) -> Chosen:
    return k_best(view, k, lambda i: i)


def threshold(view: Pass, tau: float) -> Chosen:
    return take(view, above(view, tau))


def factor(view: Pass, factor: float) -> Chosen:
    ordered = sorted(view.eligible, key=lambda i: (-view.seen[i].p, i))
    fitting = [n for n in range(1, len(ordered) + 1) if (n + 1) * (1 - view.seen[ordered[n - 1]].p) < factor]
    return take(view, ordered[: max(fitting, default=1)])


def eb(view: Pass, gamma: float, proxy: str) -> Chosen:
    error = {
        "entropy": lambda i: view.seen[i].entropy,
        "confidence": lambda i: 1 - view.seen[i].p,
        "margin": lambda i: -view.seen[i].margin,
    }[proxy]
    ordered = sorted(view.eligible, key=lambda i: (error(i), i))
    fitting = []
    for k in range(1, len(ordered) + 1):
        entropies = [view.seen[i].entropy for i in ordered[:k]]
        if sum(entropies) - max(entropies) <= gamma:
            fitting.append(k)
    return take(view, ordered[: max(fitting, default=1)])


def dus(view: Pass, base: int) -> Chosen:
    B = view.end - view.start

    def stage(i: int) -> int:
        t = 1
        while (i - view.start) % max(1, B // base**t):
            t += 1
        return t

    first = min(map(stage, view.eligible))
    return take(view, [i for i in view.eligible if stage(i) == first])


def hierarchical(view: Pass, tau: float, low: float) -> Chosen:
    runs: list[list[int]] = []
    for i in view.eligible:
        if runs and runs[-1][-1] == i - 1:
            runs[-1].append(i)
        else:
            runs.append([i])
    best = [min(run, key=lambda i: (-view.seen[i].p, i)) for run in runs]
    chosen = {i for i in best if view.seen[i].p > low} | {i for i in view.eligible if view.seen[i].p > tau}
    return take(view, sorted(chosen) or [view.best()])


def credit(view: Pass, tau: float, alpha: float, gain: float, decay: float) -> Chosen:
    if view.state.get("start") != view.start:
        view.state.update(start=view.start, credit={})
    held: dict[tuple[int, int], float] = view.state["credit"]
    for key in held:
        held[key] *= decay
    for i in view.eligible:
        key = (i, view.seen[i].token)
        held[key] = held.get(key, 0.0) + view.seen[i].p ** gain
    fused = {}
    for i in view.eligible:
        logits = [each + alpha * math.log(1 + held.get((i, v), 0.0)) for v, each in enumerate(view.seen[i].log_probs)]
        total = math.log(sum(math.exp(each) for each in logits))
        fused[i] = Seen([each - total for each in logits])
    chosen = [i for i in view.eligible if fused[i].p >= tau] or [min(view.eligible, key=lambda i: (-fused[i].p, i))]
    return Chosen({i: fused[i].token for i in chosen})


def klass(view: Pass, tau: float, kl: float, history: int, k: int) -> Chosen:
    if view.state.get("start") != view.start:
        view.state.update(start=view.start, num=0)
    view.state["num"] += 1
    past: list[dict[int, Seen]] = view.state.setdefault("past", [])
    past.append(view.seen)

    def moved(i: int, t: int) -> float:
        now, then = past[t][i].log_probs, past[t - 1][i].log_probs
        return sum(math.exp(a) * (a - b) for a, b in zip(now, then, strict=True) if a > -math.inf)

    ready = []
    if view.state["num"] >= history and len(past) > history:
        times = range(len(past) - history, len(past))
        ready = [i for i in view.eligible if view.seen[i].p > tau and all(moved(i, t) < kl for t in times)]
    return take(view, ready) if ready else k_best(view, k, lambda i: -view.seen[i].p)


def pc(view: Pass, k: int, decay: float, clip: float, frequency: list[float]) -> Chosen:
    def score(i: int) -> float:
        content = min(-view.seen[i].p * math.log(frequency[view.seen[i].token] + 1e-9), clip)
        return math.exp(-decay * (i - view.start)) * content

    return k_best(view, k, lambda i: -score(i))


def adablock(view: Pass, tau: float, delimiter_tau: float, delimiter_id: int) -> Chosen:
    L, first = len(view.canvas), view.masked[0]
    if first >= view.state.get("end", 0):
        near = [i for i in view.masked if i < first + int(0.25 * L) and view.seen[i].token == delimiter_id]
        best = min(near, key=lambda i: (-view.seen[i].p, i), default=None)
        is_sure = best is not None and view.seen[best].p >= delimiter_tau
        view.state["end"] = best + 1 if is_sure and best is not None else min(first + view.row.block_length, L)
    return take(view, above(view, tau, [i for i in view.masked if i < view.state["end"]]))


def info_gain(view: Pass, tau: float, candidates: int, position_temperature: float) -> Chosen:
    if all(view.seen[i].p >= tau for i in view.eligible):
        return take(view, view.eligible)
    L, found = len(view.canvas), {view.best()}
    draws = view.draws((candidates - 1) * L) if candidates > 1 else []
    for c in range(candidates - 1):
        gumbel = [-math.log(-math.log(u)) for u in draws[c * L : (c + 1) * L]]
        found.add(max(view.eligible, key=lambda i: view.seen[i].p / position_temperature + gumbel[i]))
    if len(found) == 1:
        return take(view, list(found))
    scores = {}
    for i in sorted(found):
        canvas = list(view.canvas)
        canvas[i] = view.seen[i].token
        after = [each.entropy for each in view.look(canvas).values()]
        scores[i] = -view.seen[i].entropy - sum(after) / len(after)
    return take(view, [max(sorted(found), key=lambda i: scores[i])])


def smc(view: Pass, tau: float, particles: int) -> Chosen:
    mask, L = view.model.spec.mask_id, len(view.canvas)
    if "canvases" not in view.state:
        view.state["canvases"] = [list(view.canvas) for _ in range(particles)]
        view.state.update(w=[0.0] * particles, total=[0.0] * particles)
    canvases, w, total = view.state["canvases"], view.state["w"], view.state["total"]
    draws = view.draws(particles * L + 1)

    def left(c: list[int]) -> list[int]:
        return [i for i in range(view.start, view.end) if c[i] == mask]

    live = [n for n in range(particles) if left(canvases[n])]
    assert canvases[live[0]] == view.canvas
    for n in live:
        seen = view.seen if n == live[0] else view.look(canvases[n])
        drawn = {}
        for i in left(canvases[n]):
            weights = [math.exp(each) for each in seen[i].log_probs]
            target, token = draws[n * L + i] * sum(weights), 0
            while target > weights[token]:
                target -= weights[token]
                token += 1
            drawn[i] = token
        value = {i: seen[i].log_probs[token] for i, token in drawn.items()}
        best = min(drawn, key=lambda i: (-value[i], i))
        for i, token in drawn.items():
            if math.exp(value[i]) >= tau or i == best:
                canvases[n][i] = token
                w[n] += value[i]
                total[n] += value[i]
    if not any(left(c) for c in canvases) and any(mask in c for c in canvases):
        share = [math.exp(each - max(w)) for each in w]
        share = [each / sum(share) for each in share]
        if 1 / sum(each**2 for each in share) < particles / 2:
            points = [(n + draws[-1]) / particles for n in range(particles)]
            sums = [sum(share[: n + 1]) for n in range(particles)]
            picks = [next((n for n in range(particles) if sums[n] >= point), particles - 1) for point in points]
            canvases[:], total[:] = [list(canvases[n]) for n in picks], [total[n] for n in picks]
            w[:] = [0.0] * particles
    unfinished = [n for n in range(particles) if left(canvases[n])]
    likeliest = total.index(max(total))
    shown = canvases[(unfinished or [0])[0] if any(mask in c for c in canvases) else likeliest]
    changed = [i for i in range(L) if shown[i] != view.canvas[i]]
    return Chosen({i: shown[i] for i in changed if shown[i] != mask}, {i for i in changed if shown[i] == mask})


def wino(view: Pass, tau: float, tau_back: float) -> Chosen:
    if view.state.get("start") != view.start:
        view.state.update(start=view.start, last=30)
    drafts = [i for i in view.eligible if view.seen[i].p > tau] or [view.best()]
    most = min(max(int(0.7 * len(view.eligible)), 5), 20)
    drafts = sorted(drafts, key=lambda i: (-view.seen[i].p, i))[:most]
    remask: list[int] = []
    if len(drafts) > 1:
        back = {}
        for i in sorted(view.written):
            if view.start <= i < view.end:
                alone = list(view.canvas)
                alone[i] = view.model.spec.mask_id
                back[i] = math.exp(look(view.model, view.row, alone)[i].log_probs[view.canvas[i]])
        doubtful = sorted((i for i in back if back[i] < tau_back), key=lambda i: (back[i], i))
        remask = doubtful[: view.state["last"] - 1]
    view.state["last"] = len(drafts)
    return Chosen({i: view.seen[i].token for i in drafts}, set(remask))


def eos_last(view: Pass, rule: Rule, eos_ids: tuple[int, ...], **parameters: Any) -> Chosen:
    """`rule`, told that the model is all but clueless where it predicts an end."""

    class Unsure(Seen):
        p = property(lambda self: 0.0)  # type: ignore[assignment]
        margin = property(lambda self: -1.0)  # type: ignore[assignment]
        entropy = property(lambda self: 1e6)  # type: ignore[assignment]

    view.seen = {i: Unsure(s.log_probs) if s.token in eos_ids else s for i, s in view.seen.items()}
    return rule(view, **parameters)
