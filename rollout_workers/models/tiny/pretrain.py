"""Trains a tiny dLLM from scratch: `python -m rollout_workers.models.tiny.pretrain [--recipe NAME] [--output DIR]`.

Masked diffusion training in the plain form: cross-entropy averaged over the masked positions of the canvas (no 1/t weight), in
three stages. Three layers learn the tasks; then the last layer is dropped and the rest trained on. A deep tiny network looks
several steps of a chain ahead in one pass, which real dLLMs on real problems do not; with two layers the order of unmasking
matters. The last stage is mostly puzzles with few givens, the task that two layers find hardest.
The recipe `shipped` is that of the model in this package. `second` is a model of another width, depth and seed, which keeps its
three layers: what a policy finds when it moves to another dLLM.

Resumable: the state is saved every `--save-every` steps, and the same command goes on from it to the same weights.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch.nn import functional as F
from transformers import LlamaConfig, LlamaForCausalLM

from cluster.config import first_difference
from cluster.errors import ExitCode, UserError
from cluster.storage import atomic_write
from rollout_workers.models.backbone import bidirectional
from rollout_workers.models.base import ModelError
from rollout_workers.models.load import load_model, load_tokenizer
from rollout_workers.models.tiny.corpus import Batch, Corpus
from rollout_workers.models.tiny.figures import Examiner, report
from rollout_workers.models.tiny.vocabulary import build_tokenizer

WARMUP_STEPS = 200
FINAL_LR_SHARE = 0.05


@dataclass(frozen=True, slots=True)
class Recipe:
    """Everything the weights depend on."""

    num_steps: int = 5000
    """Of the first stage."""
    num_shallow_steps: int = 1500
    """Of each cycle of the second stage."""
    num_shallow_cycles: int = 2
    num_puzzle_steps: int = 2000
    """Of the third stage."""
    hidden_size: int = 128
    num_heads: int = 4
    num_layers: int = 3
    num_shallow_layers: int = 2
    feed_forward_size: int = 320
    shallow_feed_forward_size: int = 512
    arithmetic_rows: int = 96
    sudoku_rows: int = 48
    sudoku_weight: float = 0.5
    """Of the puzzles' loss beside that of the chains."""
    puzzle_arithmetic_rows: int = 32
    puzzle_sudoku_rows: int = 160
    puzzle_sudoku_weight: float = 2.0
    puzzle_hard_share: float = 0.75
    """Share of the third stage's puzzles that have at most `corpus.MAX_HARD_GIVENS` givens."""
    learning_rate: float = 2e-3
    shallow_learning_rate: float = 1e-3
    weight_decay: float = 0.05
    seed: int = 0

    @property
    def total_steps(self) -> int:
        return self.first_puzzle_step + self.num_puzzle_steps

    @property
    def first_puzzle_step(self) -> int:
        return self.num_steps + self.num_shallow_cycles * self.num_shallow_steps


RECIPES = {
    "shipped": Recipe(),
    "second": Recipe(
        num_steps=2500, num_shallow_cycles=0, num_puzzle_steps=0, hidden_size=160, feed_forward_size=400, seed=1
    ),
}
OUTPUTS = {"shipped": Path("runs/tiny-pretrain"), "second": Path("runs/tiny-second")}
STATE = "state.json"
EXPORT = "checkpoint"
"""Folder of the finished model in the output."""


def build_model(recipe: Recipe, *, shallow: bool) -> LlamaForCausalLM:
    """A freshly initialised model of one of the recipe's sizes, with the tokenizer's ids in its config."""
    tokenizer = build_tokenizer()
    torch.manual_seed(recipe.seed)
    return bidirectional(
        LlamaConfig.from_dict(
            {
                "vocab_size": len(tokenizer),
                "hidden_size": recipe.hidden_size,
                "intermediate_size": recipe.shallow_feed_forward_size if shallow else recipe.feed_forward_size,
                "num_hidden_layers": recipe.num_shallow_layers if shallow else recipe.num_layers,
                "num_attention_heads": recipe.num_heads,
                "num_key_value_heads": recipe.num_heads,
                "max_position_embeddings": 256,
                "tie_word_embeddings": False,
                "pad_token_id": tokenizer.pad_token_id,
                "eos_token_id": tokenizer.eos_token_id,
                "bos_token_id": None,
                "mask_token_id": tokenizer.mask_token_id,
            }
        )
    )


def batch_loss(model: LlamaForCausalLM, batch: Batch) -> tuple[torch.Tensor, float]:
    """Mean cross-entropy over the masked positions, and the share of them that the argmax gets right."""
    mask_id = model.config.mask_token_id
    canvas_BL = torch.where(batch.masked_BL, mask_id, batch.canvas_BL)
    tokens_BS = torch.cat([batch.prompt_BP, canvas_BL], 1)
    hidden_BSD = model.model(tokens_BS).last_hidden_state
    logits = model.lm_head(hidden_BSD[:, batch.prompt_BP.shape[1] :][batch.masked_BL])
    target = batch.canvas_BL[batch.masked_BL]
    return F.cross_entropy(logits, target), float((logits.argmax(-1) == target).float().mean())


def cut_layers(deep: LlamaForCausalLM, shallow: LlamaForCausalLM) -> None:
    """Copies the leading layers of `deep` into `shallow`; feed-forward units it has more of start without effect."""
    source = deep.state_dict()
    for name, target in shallow.state_dict().items():
        value = source[name]
        if name.endswith("mlp.down_proj.weight"):
            target.zero_()
        target[tuple(slice(size) for size in value.shape)] = value


def learning_rate(recipe: Recipe, step: int) -> float:
    """In each stage and each cycle of the second: a linear warm-up, then a cosine down to `FINAL_LR_SHARE`."""
    peak, stage_steps = recipe.learning_rate, recipe.num_steps
    if step >= recipe.first_puzzle_step:
        peak, stage_steps = recipe.shallow_learning_rate, recipe.num_puzzle_steps
        step -= recipe.first_puzzle_step
    elif step >= recipe.num_steps:
        peak, stage_steps = recipe.shallow_learning_rate, recipe.num_shallow_steps
        step = (step - recipe.num_steps) % recipe.num_shallow_steps
    if step < WARMUP_STEPS:
        return peak * (step + 1) / WARMUP_STEPS
    progress = (step - WARMUP_STEPS) / max(1, stage_steps - WARMUP_STEPS)
    return peak * (FINAL_LR_SHARE + (1 - FINAL_LR_SHARE) * 0.5 * (1 + math.cos(math.pi * progress)))


class Pretraining:
    """The training state: model, optimiser and step."""

    def __init__(self, recipe: Recipe, output: Path) -> None:
        self.recipe = recipe
        self.output = output
        self.step = 0
        self.model = build_model(recipe, shallow=False)
        self.optimizer = self._new_optimizer()

    def _new_optimizer(self) -> torch.optim.AdamW:
        return torch.optim.AdamW(
            self.model.parameters(),
            lr=self.recipe.learning_rate,
            betas=(0.9, 0.98),
            weight_decay=self.recipe.weight_decay,
        )

    def _start_shallow_stage(self) -> None:
        deep, self.model = self.model, build_model(self.recipe, shallow=True)
        cut_layers(deep, self.model)
        self.optimizer = self._new_optimizer()

    def train_step(self, corpus: Corpus) -> dict[str, float]:
        """One optimiser step on one batch of each task."""
        recipe = self.recipe
        if self.step == recipe.num_steps:
            self._start_shallow_stage()
        if self.step == recipe.first_puzzle_step:
            self.optimizer = self._new_optimizer()
        num_chains, num_puzzles, puzzle_weight, hard_share = (
            (recipe.arithmetic_rows, recipe.sudoku_rows, recipe.sudoku_weight, 0.0)
            if self.step < recipe.first_puzzle_step
            else (
                recipe.puzzle_arithmetic_rows,
                recipe.puzzle_sudoku_rows,
                recipe.puzzle_sudoku_weight,
                recipe.puzzle_hard_share,
            )
        )
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(recipe, self.step)
        chains = corpus.arithmetic(self.step, batch_size=num_chains)
        loss, chain_accuracy = batch_loss(self.model, chains)
        puzzles = corpus.sudoku(self.step, batch_size=num_puzzles, hard_share=hard_share)
        puzzle_loss, puzzle_accuracy = batch_loss(self.model, puzzles)
        self.optimizer.zero_grad(set_to_none=True)
        (loss + puzzle_weight * puzzle_loss).backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        self.step += 1
        return {
            "arithmetic_loss": loss.item(),
            "arithmetic_token_accuracy": chain_accuracy,
            "sudoku_loss": puzzle_loss.item(),
            "sudoku_token_accuracy": puzzle_accuracy,
        }

    def save(self) -> None:
        """Writes the training state, `state.json` last."""
        self.output.mkdir(parents=True, exist_ok=True)
        tensors = {f"model.{name}": value.detach() for name, value in self.model.state_dict().items()}
        for index, state in self.optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer.{index}.{name}": value for name, value in state.items()}
        weights = self.output / f"state-{self.step}.safetensors"
        if weights.exists():
            # Of this very step, or left by a process that was killed before it named it.
            weights.unlink()
        save_file({name: value.contiguous().clone() for name, value in tensors.items()}, weights)
        record = {"step": self.step, "weights": weights.name, "recipe": asdict(self.recipe)}
        atomic_write(self.output / STATE, json.dumps(record, indent=1).encode())
        for old in self.output.glob("state-*.safetensors"):
            if old != weights:
                old.unlink()

    def resume(self) -> None:
        """Goes on from the saved state of `output`; a UserError for one of another recipe, and for one that is damaged."""
        path = self.output / STATE
        try:
            record = json.loads(path.read_text())
            recipe, self.step = record["recipe"], int(record["step"])
            tensors = load_file(self.output / record["weights"])
        except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
            raise UserError(
                f"'{path}' cannot be read ({type(error).__name__}: {error}); allowed: a saved state, or another --output"
            ) from error
        if recipe != asdict(self.recipe):
            difference = first_difference(recipe, asdict(self.recipe))
            raise UserError(f"'{self.output}' holds a run of another recipe ({difference}); allowed: another --output")
        if self.step > self.recipe.num_steps:
            self._start_shallow_stage()
        prefix = "model."
        self.model.load_state_dict({k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)})
        optimizer_state = self.optimizer.state_dict()
        for name, value in tensors.items():
            if name.startswith("optimizer."):
                _, index, field = name.split(".")
                optimizer_state["state"].setdefault(int(index), {})[field] = value
        self.optimizer.load_state_dict(optimizer_state)

    def export(self) -> Path:
        """Writes the model and its tokenizer in the Hugging Face folder format."""
        folder = self.output / EXPORT
        self.model.save_pretrained(folder)
        build_tokenizer().save_pretrained(folder)
        return folder


def _progress_line(training: Pretraining, averages: dict[str, float], started: float, first_step: int) -> str:
    elapsed = time.monotonic() - started
    left = elapsed / max(1, training.step - first_step) * (training.recipe.total_steps - training.step)
    figures = " ".join(f"{name} {value:.4f}" for name, value in averages.items())
    return f"step {training.step}/{training.recipe.total_steps} {figures} elapsed {elapsed / 60:.1f} min ETA {left / 60:.1f} min"


def main(words: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipe", choices=list(RECIPES), default="shipped")
    parser.add_argument("--output", type=Path, help=", ".join(f"{path} for {name}" for name, path in OUTPUTS.items()))
    parser.add_argument("--save-every", type=int, default=250)
    for name, default in asdict(Recipe()).items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=type(default), help="in place of the recipe's")
    arguments = vars(parser.parse_args(words))
    recipe, save_every = arguments.pop("recipe"), arguments.pop("save_every")
    output = arguments.pop("output") or OUTPUTS[recipe]
    given = {key: value for key, value in arguments.items() if value is not None}
    try:
        folder = _train(Pretraining(replace(RECIPES[recipe], **given), output), save_every=save_every)
        sys.stdout.write(f"model written to {folder}; held-out figures:\n")
        report(Examiner(load_model(str(folder)), load_tokenizer(str(folder))), num_examples=500, sudoku_csv=None)
    except (UserError, ModelError) as error:
        sys.stderr.write(f"error: {error}\n")
        return ExitCode.USER_ERROR
    return ExitCode.FINISHED


def _train(training: Pretraining, *, save_every: int) -> Path:
    """All steps that are left; returns the folder of the finished model."""
    if (training.output / STATE).exists():
        training.resume()
    corpus = Corpus(build_tokenizer(), seed=training.recipe.seed)
    started, first_step, window = time.monotonic(), training.step, []
    while training.step < training.recipe.total_steps:
        window.append(training.train_step(corpus))
        if training.step % 50 == 0:
            averages = {name: sum(row[name] for row in window) / len(window) for name in window[0]}
            sys.stdout.write(_progress_line(training, averages, started, first_step) + "\n")
            sys.stdout.flush()
            window.clear()
        if training.step % save_every == 0 or training.step == training.recipe.total_steps:
            training.save()
    return training.export()


if __name__ == "__main__":
    sys.exit(main())
