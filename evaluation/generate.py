"""Decode prompts in the terminal: `python -m evaluation.generate --policy runs/tiny/policy.safetensors "Ann has 4 pens . ..."`.

On a terminal the canvas is shown pass by pass, coloured by the model's confidence; elsewhere only the answers are written.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict

from rich.console import Console, Group
from rich.live import Live
from rich.text import Text

from cluster.errors import ExitCode, UserError
from evaluation.decoder import DEFAULT_SAMPLER, Answer, Canvas, Decoder
from policy.inference import InferenceConfig
from rollout_workers.models.options import LoadOptions
from rollout_workers.tasks import Split, make_task
from rollout_workers.tokenizer import DllmTokenizer

__all__ = ["Decoder", "main"]

MASK = "░"
COLOURS = ((0.99, "green3"), (0.9, "chartreuse3"), (0.7, "yellow3"), (0.4, "dark_orange"), (0.0, "red3"))
"""From which confidence on a token has which colour."""


def canvas_text(canvas: Canvas, tokenizer: DllmTokenizer) -> Text:
    """One canvas, coloured by the confidence that each token was committed with."""
    pieces = tokenizer.pieces(canvas.tokens_L.tolist())
    space = "" if any(" " in piece for piece in pieces) else " "
    text = Text(f"{canvas.nfe:3d}  ", style="bold")
    for token, piece, confidence in zip(canvas.tokens_L, pieces, canvas.confidences_L, strict=True):
        if token == tokenizer.mask_id:
            text.append(MASK + space, style="grey50")
        elif token in (tokenizer.eos_id, tokenizer.end_of_turn_id):
            text.append("·" + space, style="grey50")
        else:
            text.append(piece + space, style=next(colour for least, colour in COLOURS if confidence >= least))
    return text


def default_prompts() -> list[str]:
    """A problem that the shipped model has never seen."""
    return [make_task("arithmetic").example(Split.TEST, 0).prompt]


def _decode(decoder: Decoder, prompts: Sequence[str], *, show: bool, delay_s: float) -> list[Answer]:
    if not show:
        return decoder(prompts)
    canvases: dict[int, Text] = {}
    with Live(console=Console(), refresh_per_second=20) as live:

        def on_pass(canvas: Canvas) -> None:
            canvases[canvas.number] = canvas_text(canvas, decoder.tokenizer)
            live.update(Group(*(canvases[number] for number in sorted(canvases))), refresh=True)
            time.sleep(delay_s)

        return decoder(prompts, on_pass=on_pass)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m evaluation.generate", description=__doc__)
    parser.add_argument("prompts", nargs="*", metavar="PROMPT", help="none: a problem of the shipped model's")
    parser.add_argument("--model", default="tiny", help="'tiny', a folder or a hub id")
    parser.add_argument("--revision", help="of a hub id")
    parser.add_argument("--remote-code", action="store_true", help="run the checkpoint's own modelling code")
    parser.add_argument("--policy", help="a trained policy.safetensors")
    parser.add_argument(
        "--sampler", help=f"instead: NAME=VALUE or NAME(PARAMETER=VALUE, ...); default {DEFAULT_SAMPLER}"
    )
    parser.add_argument("--policy-temperature", type=float)
    parser.add_argument("--selection", choices=("draw", "threshold", "expected_count", "greedy"), default="draw")
    parser.add_argument("--canvas-length", type=int)
    parser.add_argument("--block-length", type=int)
    parser.add_argument("--token-temperature", type=float, default=0.0)
    parser.add_argument("--eos", choices=("full", "stop"), default="full")
    parser.add_argument(
        "--cache", choices=("none", "prefix", "dual"), default="none", help="keep keys and values between passes"
    )
    parser.add_argument(
        "--cache-refresh", type=int, help="passes within a block between full ones; default: one a block"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", choices=("float32", "bfloat16", "float64"), default="float32")
    parser.add_argument(
        "--compile", action="store_true", help="compile the model's blocks first; worth it for many prompts"
    )
    parser.add_argument("--json", action="store_true", help="one JSON object per prompt")
    parser.add_argument("--delay", type=float, default=0.1, help="seconds between passes on a terminal")
    return parser


def _run(options: argparse.Namespace) -> None:
    if not options.prompts and options.model != "tiny":
        raise UserError(f"no prompt for model '{options.model}'; allowed: none with model 'tiny' alone")
    for name in ("canvas_length", "block_length", "cache_refresh"):
        if (value := getattr(options, name)) is not None and value < 1:
            raise UserError(f"--{name.replace('_', '-')} is {value}; allowed: an integer >= 1")
    decoder = Decoder(
        options.model,
        policy=options.policy,
        sampler=options.sampler,
        canvas_length=options.canvas_length,
        block_length=options.block_length,
        policy_temperature=options.policy_temperature,
        inference=InferenceConfig(selection=options.selection),
        token_temperature=options.token_temperature,
        eos=options.eos,
        cache=options.cache,
        cache_refresh=options.cache_refresh,
        seed=options.seed,
        dtype=options.dtype,
        device=options.device,
        options=LoadOptions(options.revision, options.remote_code, compile=options.compile),
    )
    show = sys.stdout.isatty() and not options.json
    for answer in _decode(decoder, options.prompts or default_prompts(), show=show, delay_s=options.delay):
        if options.json:
            sys.stdout.write(json.dumps(asdict(answer)) + "\n")
            continue
        if not options.prompts:
            sys.stdout.write(f"{answer.prompt}\n")
        status = "" if answer.status == "clean" else f", {answer.status}"
        sys.stdout.write(f"{answer.text}\n{answer.nfe} passes, {answer.seconds:.2f} s{status}\n")


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit code."""
    options = _parser().parse_args(arguments)
    try:
        _run(options)
    except UserError as error:
        sys.stderr.write(f"error: {error}\n")
        return ExitCode.USER_ERROR
    return ExitCode.FINISHED


if __name__ == "__main__":
    sys.exit(main())
