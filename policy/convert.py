"""Reads and writes the reference release's policy checkpoints.

    python -m policy.convert from-reference MODEL.safetensors|FOLDER POLICY.safetensors [options]
    python -m policy.convert to-reference POLICY.safetensors MODEL.safetensors|FOLDER

A folder is a checkpoint as the release saves it: `model.safetensors` beside `config.json`. Exit codes: 0 done, 2 a file or an
option that cannot be used.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load

from policy.networks.registry import num_parameters
from policy.reference import PARITY, from_reference, reference_bytes
from policy.scope import Scope
from policy.weights import WeightsError, from_bytes, to_bytes

MODEL_FILE, CONFIG_FILE = "model.safetensors", "config.json"
USER_ERROR = 2


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit code."""
    options = _parser().parse_args(arguments)
    try:
        done = _read_reference(options) if options.direction == "from-reference" else _write_reference(options)
    except (WeightsError, OSError) as error:
        sys.stderr.write(f"error: {error}\n")
        return USER_ERROR
    sys.stdout.write(f"{options.target}: {done}\n")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m policy.convert", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    directions = parser.add_subparsers(dest="direction", required=True)
    reading = directions.add_parser("from-reference", help="a reference checkpoint becomes a policy file")
    reading.add_argument("source", type=Path, help="the checkpoint's safetensors file or its folder")
    reading.add_argument("target", type=Path, help="the policy file to write")
    reading.add_argument("--num-heads", type=_positive, help="attention heads (default: by `inv_freq`, else 2)")
    reading.add_argument(
        "--time-embedding",
        choices=("legacy", "sinusoidal"),
        default=PARITY["time_embedding"],
        help="legacy is the release's, with period 1; the other one changes what the policy computes",
    )
    reading.add_argument("--scope", choices=[str(scope) for scope in Scope], default=str(PARITY["scope"]))
    reading.add_argument(
        "--distribution", choices=("bernoulli", "bernoulli_argmax", "dpls"), default=PARITY["distribution"]
    )
    reading.add_argument("--policy-temperature", type=_above_zero, default=1.0)
    writing = directions.add_parser("to-reference", help="a policy file becomes a reference checkpoint")
    writing.add_argument("source", type=Path, help="the policy file")
    writing.add_argument("target", type=Path, help="the safetensors file or the folder to write")
    return parser


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text} is not allowed; allowed: an integer >= 1")
    return number


def _above_zero(text: str) -> float:
    number = float(text)
    if not 0 < number < float("inf"):
        raise argparse.ArgumentTypeError(f"{text} is not allowed; allowed: a number > 0")
    return number


def _read_reference(options: argparse.Namespace) -> str:
    path = options.source / MODEL_FILE if options.source.is_dir() else options.source
    try:
        tensors = load(path.read_bytes())
    except SafetensorError as error:
        raise WeightsError(f"{path}: not a readable safetensors file ({error})") from error
    network = from_reference(
        tensors,
        where=str(path),
        num_heads=options.num_heads,
        time_embedding=options.time_embedding,
        scope=Scope(options.scope),
        distribution=options.distribution,
        policy_temperature=options.policy_temperature,
    )
    _write(options.target, to_bytes(network))
    config = network.config
    return f"{num_parameters(config):,} parameters, {config.num_heads} heads, {config.num_confidences} confidences"


def _write_reference(options: argparse.Namespace) -> str:
    network = from_bytes(options.source.read_bytes(), where=str(options.source))
    data = reference_bytes(network, where=str(options.source))
    if options.target.suffix == ".safetensors":
        _write(options.target, data)
    else:
        _write(options.target / MODEL_FILE, data)
        _write(options.target / CONFIG_FILE, json.dumps({"model_type": "policy"}).encode())
    config = network.config
    return (
        f"{num_parameters(config):,} parameters; the file does not say: distribution {config.distribution}, "
        f"policy temperature {config.policy_temperature:g}"
    )


def _write(path: Path, data: bytes) -> None:
    """Puts the whole file in place at once."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.partial")
    partial.write_bytes(data)
    os.replace(partial, path)


if __name__ == "__main__":
    sys.exit(main())
