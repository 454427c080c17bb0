"""The command line of `python -m evaluation.bench`."""

from __future__ import annotations

import argparse
from collections.abc import Callable

import torch

from evaluation.random_models import SHAPES
from rollout_workers.models.load import DTYPES


def bench_parser() -> argparse.ArgumentParser:
    """Of all benchmarks; `bench` is the name of the one that is asked for."""
    parser = argparse.ArgumentParser(
        prog="python -m evaluation.bench",
        description="Benchmarks that pair this project with what public code does, in the same run; without Ray.",
    )
    benches = parser.add_subparsers(dest="bench", required=True)
    rollouts = benches.add_parser("rollouts", help="the engine against a lock-step batched decoder")
    overhead = benches.add_parser("overhead", help="what the engine adds to bare forward passes, by cause")
    rollouts.add_argument(
        "--baseline",
        choices=("public", "adapter"),
        default="public",
        help="vocabulary reduction of the lock-step decoder: a softmax over everything as public code has it, or this project's",
    )
    cache = benches.add_parser("cache", help="accuracy and speed with keys and values kept between passes")
    memory = benches.add_parser("memory", help="memory and time of a model of a real size with random weights")
    for bench in (rollouts, overhead):
        _add_decoding(bench)
    _add_cache(cache)
    _add_memory(memory)
    for bench in (rollouts, overhead, cache, memory):
        _add_common(bench)
    return parser


def _add_decoding(bench: argparse.ArgumentParser) -> None:
    """What is decoded, and how many rows at a time."""
    bench.add_argument("--model", default="tiny")
    bench.add_argument("--task", default="arithmetic")
    bench.add_argument("--shape", choices=SHAPES, default=None, help="random weights of this size, instead of --model")
    bench.add_argument("--dtype", choices=DTYPES, default="bfloat16", help="of --shape")
    bench.add_argument(
        "--prompts", type=_at_least(1), nargs=2, default=[64, 200], help="shortest and longest prompt of --shape"
    )
    bench.add_argument("--canvas", type=_at_least(1), default=256, help="canvas positions of --shape")
    bench.add_argument("--rows", type=_at_least(1), default=256)
    bench.add_argument(
        "--samples", type=_at_least(1), default=1, help="rows of --task per problem: 8 is a group of training"
    )
    bench.add_argument("--batch-sizes", type=_at_least(1), nargs="+", default=[16, 64])
    bench.add_argument(
        "--block-lengths",
        type=_at_least(1),
        nargs="+",
        default=None,
        help="default: a third of the canvas (of --shape 32), and all of it",
    )
    bench.add_argument("--repeats", type=_at_least(1), default=5)
    bench.add_argument("--target-nfe", type=float, nargs="+", default=[], help="thresholds for so many passes a row")
    bench.add_argument("--compile", action="store_true", help="compile our blocks (model.compile), not the baseline's")


def _add_cache(bench: argparse.ArgumentParser) -> None:
    bench.add_argument("--model", default="tiny")
    bench.add_argument("--task", default="arithmetic")
    bench.add_argument("--rows", type=_at_least(1), default=256)
    bench.add_argument("--batch-size", type=_at_least(1), default=16)
    bench.add_argument("--block-length", type=_at_least(1), default=None, help="default: a third of the canvas")
    bench.add_argument(
        "--refresh",
        type=_at_least(0),
        nargs="+",
        default=[0, 4, 2],
        help="passes between full ones within a block; 0: none",
    )
    bench.add_argument("--repeats", type=_at_least(1), default=5)


def _add_memory(bench: argparse.ArgumentParser) -> None:
    bench.add_argument("--shape", choices=SHAPES, default="small")
    bench.add_argument("--dtype", choices=DTYPES, default="bfloat16")
    bench.add_argument(
        "--vocabulary", type=_at_least(2), default=None, help="rows of the head; default: the shape's own"
    )
    bench.add_argument("--prompt", type=_at_least(1), default=16, help="prompt tokens")
    bench.add_argument("--canvas", type=_at_least(1), default=256, help="canvas positions")
    bench.add_argument(
        "--batch-sizes", type=_at_least(1), nargs="+", default=[4, 8, 12, 16], help="rows of the first table"
    )
    bench.add_argument("--skip-reduction", action="store_true", help="leave the first table out")
    bench.add_argument("--rows", type=_at_least(0), default=0, help="rows of the second table; 0 leaves it out")
    bench.add_argument("--block-length", type=_at_least(1), default=None, help="default: the whole canvas")


def _add_common(bench: argparse.ArgumentParser) -> None:
    bench.add_argument("--unmasker", default="threshold:0.9", help="NAME:VALUE of a heuristic, or a policy.safetensors")
    bench.add_argument("--device", default="cpu")
    bench.add_argument("--threads", type=_at_least(1), default=torch.get_num_threads())
    bench.add_argument("--json", default=None, help="also write the figures to this file")


def _at_least(least: int) -> Callable[[str], int]:
    def whole_number(text: str) -> int:
        if not text.isdecimal() or int(text) < least:
            raise argparse.ArgumentTypeError(f"{text!r} is given; allowed: whole numbers from {least}")
        return int(text)

    return whole_number
