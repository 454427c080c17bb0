"""Settings of the environment: model, task, decoding, reward and the rollout pool."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from cluster.config import setting
from cluster.errors import UserError
from policy.scope import Scope
from rollout_workers.hosting import section_of
from rollout_workers.models.options import LoadOptions
from rollout_workers.rewards import check_terms


@dataclass(frozen=True)
class ModelConfig:
    """Which frozen dLLM."""

    name: str = setting(
        "tiny", help="'tiny' (shipped), a folder in the Hugging Face format, or OWNER/NAME of a hub repository"
    )
    revision: str | None = setting(None, help="commit, branch or tag of a hub repository; null is main")
    remote_code: bool = setting(False, help="run the checkpoint's own modelling code, with the rights of the run")
    mask_token_id: int | None = setting(None, help="for checkpoints that do not say it", minimum=0)
    logit_shift: bool = setting(False, help="with remote_code: the logits of a position stand one to its left")
    dtype: Literal["float32", "bfloat16", "float64"] = "float32"
    device: str = setting("cpu", help="torch device of each rollout actor")
    compile: bool = setting(
        False, help="torch.compile the blocks when the model is loaded; predictions change by rounding"
    )

    def validate(self, where: str) -> None:
        """Only transformers' own blocks are compiled."""
        if self.compile and self.remote_code:
            raise UserError(f"config key '{where}.compile' is true; allowed: false with {where}.remote_code")

    @property
    def options(self) -> LoadOptions:
        """What loading is told besides name, dtype and device."""
        return LoadOptions(self.revision, self.remote_code, self.mask_token_id, self.logit_shift, self.compile)


@dataclass(frozen=True)
class TaskConfig:
    """How one task is posed and graded; a task refuses settings that it does not read."""

    train: str | None = setting(
        None, help="file of training rows (.jsonl, .jsonl.gz, .parquet, .csv); null is the published data set"
    )
    test: str | None = setting(None, help="file of test rows; null is the published data set")
    revision: str | None = setting(None, help="commit of the published data set; null is the tested one")
    prompt: str | None = setting(None, help="named wording of the prompt; null is the task's first")
    few_shot: int | None = setting(None, help="worked examples in the prompt; null is the task's own", minimum=0)
    symbolic: bool = setting(True, help="MATH: compare what differs as text symbolically, with math-verify")
    parity: bool = setting(False, help="grade with the quirks of the reference release")
    sandbox: Literal["namespaces", "process"] = setting(
        "namespaces", help="isolation of generated code; 'process' is weaker, see docs/sandbox.md"
    )
    grade_deadline_s: float = setting(10.0, help="for one answer; then it is graded as timed out", above=0.0)


CacheMode = Literal["none", "prefix", "dual"]

SCOPES_WITH_CACHE: Mapping[str, tuple[Scope, ...]] = {
    "none": tuple(Scope),
    "prefix": (Scope.BLOCK, Scope.MASKED),
    "dual": (Scope.BLOCK,),
}
"""The scopes of unmaskers for which a pass computes all that they ask for."""


@dataclass(frozen=True)
class DecodeConfig:
    """How canvases are decoded in training."""

    canvas_length: int | None = setting(None, help="L in tokens; null is the task's own", minimum=1)
    block_length: int | None = setting(
        None, help="tokens per block; null is the whole canvas (full diffusion)", minimum=1
    )
    num_slots: int | None = setting(
        32, help="rows per forward pass; null: as many as fit into the GPU's memory (32 on a CPU)", minimum=1
    )
    token_temperature: float = setting(0.0, help="the dLLM's; 0 takes the most likely token", minimum=0.0)
    eos: Literal["full", "stop"] = setting("full", help="decode the whole canvas, or stop at the end of the text")
    cache: CacheMode = setting(
        "none",
        help="keep keys and values between passes and compute only the current block and what follows it, or the block alone; "
        "approximate",
    )
    cache_refresh: int | None = setting(
        None,
        help="passes within a block from one that computes everything to the next; null: once per block",
        minimum=1,
    )
    max_prompt_length: int | None = setting(
        None, help="in tokens; null is what the model has positions for beside the canvas", minimum=1
    )
    long_prompts: Literal["error", "skip"] = setting(
        "error", help="a longer prompt stops the run before it starts, or is left out and counted; it is never cut"
    )

    def validate(self, where: str) -> None:
        """Kept keys and values take memory beside a pass, which no pass shows."""
        if self.num_slots is None and self.cache != "none":
            raise UserError(
                f"config key '{where}.num_slots' is null; allowed: a number with {where}.cache={self.cache}"
            )

    def lengths(self, task_length: int, where: str) -> tuple[int, int]:
        """(canvas length, block length) on a task; a block length that does not divide the canvas is a UserError."""
        length = self.canvas_length or task_length
        block = self.block_length or length
        check_block_length(block, length, f"{where}.block_length")
        return length, block

    def check_scope(self, scope: str, what: str) -> None:
        """Where keys and values are kept, a pass predicts only the positions that it computes; `what` has the scope."""
        seen = SCOPES_WITH_CACHE[self.cache]
        if scope not in seen:
            raise UserError(f"{what} is '{scope}'; allowed with decode.cache={self.cache}: {', '.join(seen)}")

    def check_models(self, models: Mapping[str, ModelConfig], prefix: str = "") -> None:
        """Refuses to keep keys and values of models that have no place for them, or whose compiled programs have none."""
        for model in models.values():
            if self.cache != "none" and model.remote_code:
                raise UserError(
                    f"config key '{prefix}decode.cache' is {self.cache!r}; "
                    f"allowed: 'none' with the own code of model '{model.name}'"
                )
            if self.cache != "none" and model.compile:
                raise UserError(
                    f"config key '{prefix}decode.cache' is {self.cache!r}; "
                    f"allowed: 'none' where model '{model.name}' is compiled"
                )


def check_device(key: str, device: str, gpus_key: str, gpus: float) -> None:
    """Refuses what is no device, and CUDA without GPUs: Ray hides them from actors that ask for none."""
    if not re.fullmatch(r"(cpu|cuda|mps|xpu)(:\d+)?", device):
        raise UserError(
            f"config key '{key}' is {device!r}; allowed: cpu, cuda, mps, xpu, with or without a number (cuda:0)"
        )
    if device.startswith("cuda") and gpus == 0:
        raise UserError(
            f"config key '{gpus_key}' is 0, but {key} is {device!r}; allowed: a number > 0, a fraction shares a GPU"
        )


def check_model_devices(models: Mapping[str, ModelConfig], rollout: RolloutConfig, prefix: str = "") -> None:
    """The same of every model; `models` are by name (`rollout_workers.hosting`)."""
    for name, model in models.items():
        check_device(
            f"{prefix}{section_of(name)}.device",
            model.device,
            f"{prefix}rollout.gpus_per_worker",
            rollout.gpus_per_worker,
        )


def check_block_length(block_length: int, length: int, key: str, *, of: str = "canvas length") -> None:
    """Refuses a block length that does not divide `length`: the canvas, or what `of` calls it."""
    if block_length > length or length % block_length:
        divisors = [n for n in range(1, length + 1) if length % n == 0]
        raise UserError(f"config key '{key}' is {block_length}; allowed: a divisor of the {of} {length}: {divisors}")


@dataclass(frozen=True)
class RewardConfig:
    """What a decoded row earns."""

    terms: dict[str, float] = setting(
        {"multiplicative": 1.0},
        help="weights of the terms of rollout_workers.rewards; a term of weight 0 is only logged",
    )
    alpha: float = setting(1.0, help="speed exponent (weight in 'additive'); 0 rewards correctness alone", minimum=0.0)
    initial_alpha: float | None = setting(
        None,
        help="alpha of the first update, from where it moves linearly to alpha; null is alpha throughout",
        minimum=0.0,
    )

    def validate(self, where: str) -> None:
        """Known terms of which at least one counts."""
        check_terms(self.terms, where=f"{where}.terms" if where else "terms")


@dataclass(frozen=True)
class RolloutConfig:
    """The pool of rollout actors."""

    num_workers: int = setting(2, help="rollout actors; fewer do the same work", minimum=1)
    min_workers: int = setting(1, help="the run starts with these, and ends when it cannot keep them", minimum=1)
    cpus_per_worker: float = setting(1.0, above=0.0)
    gpus_per_worker: float = setting(0.0, help="may be a fraction", minimum=0.0)
    worker_labels: dict[str, str] = setting({}, help="Ray labels that the nodes of rollout actors must have")
    torch_threads: int = setting(1, help="per actor; part of what makes a run bitwise reproducible", minimum=1)
    num_graders: int = setting(0, help="actors that grade; 0 grades in the rollout actors", minimum=0)
    cpus_per_grader: float = setting(0.1, above=0.0)
    grader_labels: dict[str, str] = setting({}, help="Ray labels that the nodes of graders must have")
    lease_groups: int = setting(2, help="groups per lease; a lease is decoded as one batch of work", minimum=1)
    taper_leases: bool = setting(
        False,
        help="the last leases of an update or a validation are smaller and smaller, so that few actors with many end together",
    )
    start_deadline_s: float = setting(
        180.0, help="for min_workers actors to load their model, and for places in the cluster", above=0.0
    )
    lease_deadline_s: float = setting(
        600.0, help="for one lease, while it runs; then its actor is replaced and another runs it", above=0.0
    )
    grade_deadline_s: float = setting(
        600.0, help="the same for the grades of a lease, in graders of their own", above=0.0
    )
    straggler_factor: float = setting(
        4.0, help="a lease that runs this many times the median is also given to an idle actor; 0: never", minimum=0.0
    )
    max_replacements: int = setting(4, help="of one actor in a row, without a finished lease in between", minimum=0)
    weights_deadline_s: float = setting(60.0, help="for an actor to get a version of the weights", above=0.0)

    def validate(self, where: str) -> None:
        """No more actors needed than there may be."""
        if self.min_workers > self.num_workers:
            raise UserError(
                f"config key '{where}.min_workers' is {self.min_workers}; allowed: at most num_workers = {self.num_workers}"
            )
