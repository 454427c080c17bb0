"""Shows what a run decoded while it trained: `python -m learner.samples RUN [--update N] [--pick worst] [--number K]`.

Of some groups of an update the best and the worst rollout are kept (`checkpoint.samples_every`, `checkpoint.sample_groups`). Tokens
are coloured by the pass that committed them, from the first (blue) to the last (red).
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.text import Text

from cluster.config import build, load_yaml
from cluster.errors import ExitCode, UserError
from cluster.logs import wide_console
from cluster.run_dir import RunDir
from learner.config import RunConfig
from rollout_workers.hosting import model_of
from rollout_workers.models.base import ModelError
from rollout_workers.models.load import load_tokenizer
from rollout_workers.tokenizer import DllmTokenizer

PICKS = ("best", "worst")
_COLOURS = (
    "#3b4cc0",
    "#5a78e4",
    "#7b9ff9",
    "#9ebeff",
    "#c0d4f5",
    "#dddcdc",
    "#f2cbb7",
    "#f7ac8e",
    "#ee8468",
    "#d65244",
)
"""From the first pass to the last."""


def read_samples(run: Path) -> list[dict[str, Any]]:
    """All samples of a run, in the order of its updates; UserError where there is no run, or none are there yet."""
    path = RunDir(run).samples_path
    if not path.is_file():
        raise UserError(f"'{run}' has no {path.name}; allowed: the directory of a run that has made updates")
    samples: list[dict[str, Any]] = []
    for number, line in enumerate(path.read_text().splitlines(), start=1):
        try:
            samples.append(json.loads(line))
        except ValueError as error:
            raise UserError(f"'{path}', line {number} is damaged: {error}") from error
    return samples


def chosen(
    samples: Sequence[dict[str, Any]], update: int | None, pick: str | None, number: int
) -> list[dict[str, Any]]:
    """The newest `number` of an update (None: the last one) and of one kind; UserError for an update that has none."""
    updates = sorted({sample["step"] for sample in samples})
    if not updates:
        raise UserError("no sample is there yet; allowed: a run that has made checkpoint.samples_every updates")
    update = updates[-1] if update is None else update
    if update not in updates:
        raise UserError(f"--update is {update}; allowed: {', '.join(map(str, updates))}")
    return [each for each in samples if each["step"] == update and pick in (None, each["pick"])][:number]


def canvas_text(sample: Mapping[str, Any], tokenizer: DllmTokenizer) -> Text:
    """The canvas, coloured by the order of unmasking."""
    pieces = tokenizer.pieces(sample["tokens"])
    space = "" if any(" " in piece for piece in pieces) else " "
    text = Text()
    for piece, number in zip(pieces, sample["order"], strict=True):
        place = (number - 1) * (len(_COLOURS) - 1) // max(1, sample["nfe"] - 1)
        style = "grey50" if number < 1 else _COLOURS[place]
        text.append(piece + space, style=style)
    return text


def show(sample: Mapping[str, Any], tokenizer: DllmTokenizer | None, out: Console) -> None:
    """One sample."""
    terms = ", ".join(f"{name} {value:.4g}" for name, value in sample["reward_terms"].items())
    out.print(
        f"update {sample['step']}, {sample['pick']} of the group {sample['example_id']}: reward {sample['reward']:.4f} "
        f"({terms}), {sample['grade']}, {sample['nfe']} passes, {sample['status']}, weights of version {sample['weight_version']}",
        style="bold", markup=False, highlight=False, soft_wrap=True,
    )  # fmt: skip
    out.print(sample.get("prompt", ""), markup=False, highlight=False, soft_wrap=True)
    text = Text(sample["text"]) if tokenizer is None else canvas_text(sample, tokenizer)
    out.print(text, soft_wrap=True)
    out.print(f"answer {sample['answer']!r}\n", markup=False, highlight=False, soft_wrap=True)


def _tokenizer(run: Path, sample: Mapping[str, Any]) -> DllmTokenizer:
    config = build(RunConfig, load_yaml(RunDir(run).config_path))
    model = config.model_configs[model_of(str(sample["example_id"]).partition("/")[0])]
    return load_tokenizer(model.name, model.options)


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m learner.samples", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run", type=Path, help="a run's directory")
    parser.add_argument("--update", type=int, help="default: the last that has samples")
    parser.add_argument("--pick", choices=PICKS, help="default: both")
    parser.add_argument("--number", type=int, default=2, help="most samples to show")
    parser.add_argument("--text", action="store_true", help="text alone, without the model's tokenizer and colours")
    options = parser.parse_args(arguments)
    try:
        samples = chosen(read_samples(options.run), options.update, options.pick, options.number)
        for sample in samples:
            show(sample, None if options.text else _tokenizer(options.run, sample), wide_console())
    except (UserError, ModelError) as error:
        sys.stderr.write(f"error: {error}\n")
        return ExitCode.USER_ERROR
    return ExitCode.FINISHED


if __name__ == "__main__":
    sys.exit(main())
