"""Benchmarks that pair this project with what public code does, in the same run: `python -m evaluation.bench NAME`.

They run without Ray.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import torch
from rich.console import Console

from cluster.allocator import keep_freed_memory
from cluster.errors import DeadlineExceeded, ExitCode, UserError
from cluster.logs import wide_console
from evaluation.bench_cache import bench_cache, cache_table
from evaluation.bench_inputs import check_json, random_rows, threshold_for_nfe
from evaluation.bench_memory import Case, decode_table, measure_decode, measure_reduction, reduction_table
from evaluation.bench_options import bench_parser
from evaluation.bench_overhead import OverheadFigures, bench_overhead, overhead_brief, overhead_table
from evaluation.bench_rollouts import RolloutFigures, bench_rollouts, rollouts_brief, rollouts_tables
from evaluation.environment import environment_record
from evaluation.public_reduction import PublicReduction
from evaluation.random_models import SHAPES, random_model
from evaluation.roofline import measure_matmul_peak
from policy.factory import EXPERTS, HEURISTICS, make_heuristic, make_learned
from policy.unmasker import Unmasker
from policy.weights import WeightsError, from_bytes
from rollout_workers.caching import CacheSettings, check_cache
from rollout_workers.config import check_block_length
from rollout_workers.grader import grade_all
from rollout_workers.models.backbone import BackboneDLLM
from rollout_workers.models.backoff import is_out_of_memory
from rollout_workers.models.base import FrozenDLLM, ModelError
from rollout_workers.models.compiled import compiled
from rollout_workers.models.load import DTYPES, check_model, load_model, load_tokenizer
from rollout_workers.rollout import pose_each
from rollout_workers.sequence import Sequence as Row
from rollout_workers.tasks import Split, make_task

_Line = TypeVar("_Line", RolloutFigures, OverheadFigures)


def _measure_lines(
    options: argparse.Namespace,
    console: Console,
    model: FrozenDLLM,
    make_rows: Callable[[int], list[Row]],
    blocks: Sequence[int],
    measure: Callable[..., _Line],
    *,
    brief: Callable[[_Line], str],
) -> tuple[list[_Line], str]:
    """(a line for each block length, unmasker and batch size; the unmaskers by name).

    Each is told in a few words and written to the JSON file as soon as it is there. One that does not fit into memory is left out
    and said so, so that the others are not lost; where none fits, that is a UserError.
    """
    figures: list[_Line] = []
    records: list[dict[str, Any]] = []
    num_tried, num_lines = 0, len(blocks) * len(options.batch_sizes) * max(1, len(options.target_nfe))
    for block in blocks:
        for name in _unmaskers(options, console, model, make_rows, block):
            unmasker = _parse_unmasker(name, options.device)
            for batch_size in options.batch_sizes:
                num_tried += 1
                what = f"block {block}, {batch_size} rows, {name}"
                try:
                    with console.status(f"{what}: line {num_tried} of {num_lines}"):
                        line = measure(
                            unmasker=unmasker,
                            make_rows=make_rows,
                            block_length=block,
                            batch_size=batch_size,
                            repeats=options.repeats,
                        )
                except RuntimeError as error:
                    if not is_out_of_memory(error):
                        raise
                    reason = str(error).strip().splitlines()[0]
                    console.print(f"{what}: left out, it does not fit into memory ({reason})", soft_wrap=True)
                    continue
                figures.append(line)
                records.append({"unmasker": name, **dataclasses.asdict(line)})
                console.print(f"{what}: {brief(line)}", soft_wrap=True)
                _write_json(options, figures=records)
    if not figures:
        raise UserError(f"--batch-sizes is {options.batch_sizes}, and none fits; allowed: smaller ones")
    return figures, ", ".join(dict.fromkeys(record["unmasker"] for record in records))


def _check_plain(options: argparse.Namespace) -> None:
    """Refuses what a lock-step decoder, or a pass made again, cannot give: before anything is loaded."""
    needs = _parse_unmasker(options.unmasker, "cpu").needs
    name, colon, _ = options.unmasker.partition(":")
    if not needs.is_plain or (colon and name in HEURISTICS and name not in EXPERTS):
        raise UserError(f"--unmasker is {options.unmasker!r}; allowed: a policy.safetensors, {', '.join(EXPERTS)}")
    if needs.hidden and options.bench == "rollouts":
        raise UserError(f"--unmasker {options.unmasker!r} reads hidden states; allowed: a policy of confidences")


def _parse_unmasker(text: str, device: str) -> Unmasker:
    """`threshold:0.9`, `low_confidence:2`, ... or the path of a policy file."""
    name, colon, value = text.partition(":")
    try:
        if colon and not Path(text).exists():
            return make_heuristic(name, int(value) if value.isdecimal() else float(value))
        path = Path(text)
        if not path.is_file():
            raise UserError(
                f"--unmasker {text!r} is no file; allowed: NAME:VALUE of a heuristic, or a policy.safetensors"
            )
        return make_learned(from_bytes(path.read_bytes(), where=str(path)).to(device))
    except (ValueError, WeightsError) as error:
        raise UserError(f"--unmasker {text!r}: {error}") from error


def _load(
    options: argparse.Namespace, console: Console
) -> tuple[FrozenDLLM, Callable[[int], list[Row]], list[int], str]:
    """(model, rows by block length, block lengths, what is decoded) of `rollouts` and `overhead`."""
    keep_freed_memory()
    torch.set_num_threads(options.threads)
    canvas_length = make_task(options.task).canvas_length if options.shape is None else options.canvas
    usual = _divisor(canvas_length, canvas_length // 3 if options.shape is None else 32)
    blocks = list(dict.fromkeys(options.block_lengths or [usual, canvas_length]))
    for block in blocks:
        check_block_length(block, canvas_length, "--block-lengths")
    if options.target_nfe and max(options.target_nfe) > canvas_length:
        raise UserError(f"--target-nfe is {options.target_nfe}; allowed: up to the canvas length {canvas_length}")
    if options.samples > 1 and options.shape is not None:
        raise UserError(f"--samples is {options.samples}; allowed: 1 with --shape, whose prompts are random")
    if not options.target_nfe:
        _check_plain(options)
    with console.status("loading"):
        model, make_rows = _of_task(options) if options.shape is None else _of_shape(options)
    groups = f" in groups of {options.samples}" if options.samples > 1 else ""
    what = (
        f"{options.task}{groups}" if options.shape is None else f"random prompts on {options.shape} in {options.dtype}"
    )
    return model, make_rows, blocks, what


def _fast(model: FrozenDLLM, options: argparse.Namespace, console: Console) -> FrozenDLLM:
    """The model that the engine runs on; the baseline's stays as it is."""
    if not options.compile:
        return model
    if not isinstance(model, BackboneDLLM):
        raise UserError(f"--compile is given; {options.model} runs its own code; allowed: without")
    with console.status("compiling"):
        return compiled(model)


def _rollouts(options: argparse.Namespace, console: Console) -> None:
    model, make_rows, blocks, what = _load(options, console)
    baseline, fast = model, _fast(model, options, console)
    if options.baseline == "public":
        if not isinstance(model, BackboneDLLM):
            raise UserError(f"--baseline is 'public'; {options.model} runs its own code; allowed: adapter")
        baseline = PublicReduction(model)
    with console.status("measuring the matmul peak"):
        peak = measure_matmul_peak(model.device, DTYPES[options.dtype] if options.shape else torch.float32)
    measure = functools.partial(bench_rollouts, fast, baseline_model=baseline, peak_flops=peak)
    figures, names = _measure_lines(options, console, model, make_rows, blocks, measure, brief=rollouts_brief)
    title = (
        f"{options.rows} rows of {what}, unmasker {names}, medians of {options.repeats} turns"
        f"{', our blocks compiled' if options.compile else ''}\n"
        f"matmul peak {peak / 1e12:.3g} TFLOP/s on {environment_record(options.device)['device']}"
    )
    for table in rollouts_tables(figures, title):
        console.print(table)


def _overhead(options: argparse.Namespace, console: Console) -> None:
    model, make_rows, blocks, what = _load(options, console)
    model = _fast(model, options, console)
    measure = functools.partial(bench_overhead, model)
    figures, names = _measure_lines(options, console, model, make_rows, blocks, measure, brief=overhead_brief)
    title = (
        f"{options.rows} rows of {what}, unmasker {names}, medians of {options.repeats} turns; "
        f"shares are of the bare forward passes"
    )
    console.print(overhead_table(figures, title))


def _cache(options: argparse.Namespace, console: Console) -> None:
    keep_freed_memory()
    torch.set_num_threads(options.threads)
    tokenizer, task = load_tokenizer(options.model), make_task(options.task)
    examples = [task.example(Split.TEST, index) for index in range(options.rows)]
    block = options.block_length or _divisor(task.canvas_length, task.canvas_length // 3)
    check_block_length(block, task.canvas_length, "--block-length")

    def make_rows() -> list[Row]:
        return pose_each(examples, tokenizer, canvas_length=task.canvas_length, block_length=block)

    def grade(rows: list[Row]) -> list[bool]:
        texts = [tokenizer.decode_canvas(row.tokens_L.tolist()) for row in rows]
        return [verdict.is_correct for verdict in grade_all([task] * len(rows), examples, texts)]

    unmasker = _parse_unmasker(options.unmasker, options.device)
    if unmasker.needs.scope != "block":
        raise UserError(
            f"--unmasker {options.unmasker!r} looks at '{unmasker.needs.scope}' positions; "
            "allowed: a heuristic, or a policy with policy.scope=block"
        )
    refreshes = [refresh or None for refresh in options.refresh]
    settings = [CacheSettings(), *(CacheSettings(mode, each) for mode in ("prefix", "dual") for each in refreshes)]
    spec = check_model(options.model)
    for each in settings:
        try:
            check_cache(each, unmasker.needs, spec)
        except ValueError as error:
            raise UserError(f"--unmasker {options.unmasker!r}: {error}") from error
    with console.status("benchmarking"):
        figures = bench_cache(
            load_model(options.model, device=options.device), unmasker, make_rows, grade, settings,
            batch_size=options.batch_size, repeats=options.repeats,
        )  # fmt: skip
    title = (
        f"{options.rows} problems of {options.task} in blocks of {block}, unmasker {options.unmasker}, "
        f"medians of {options.repeats} turns"
    )
    console.print(cache_table(figures, title))
    _write_json(options, figures=[dataclasses.asdict(line) for line in figures])


def _divisor(length: int, most: int) -> int:
    """The largest divisor of `length` up to `most`."""
    return max(each for each in range(1, max(1, min(most, length)) + 1) if length % each == 0)


def _of_task(options: argparse.Namespace) -> tuple[FrozenDLLM, Callable[[int], list[Row]]]:
    """A real model and the problems of a task."""
    if options.rows % options.samples:
        raise UserError(f"--samples is {options.samples}; allowed: a divisor of --rows, {options.rows}")
    model, tokenizer = load_model(options.model, device=options.device), load_tokenizer(options.model)
    task = make_task(options.task)
    examples = [task.example(Split.TEST, index) for index in range(options.rows // options.samples)]

    def make_rows(block_length: int) -> list[Row]:
        return pose_each(
            examples,
            tokenizer,
            canvas_length=task.canvas_length,
            block_length=block_length,
            num_samples=options.samples,
        )

    return model, make_rows


def _of_shape(options: argparse.Namespace) -> tuple[FrozenDLLM, Callable[[int], list[Row]]]:
    """A model of a real size with random weights, and random prompts."""
    dtype = DTYPES[options.dtype]
    model = random_model(options.shape, SHAPES[options.shape], dtype=dtype, device=options.device)

    def make_rows(block_length: int) -> list[Row]:
        return random_rows(
            options.rows,
            prompt_lengths=(min(options.prompts), max(options.prompts)),
            canvas_length=options.canvas,
            block_length=block_length,
            mask_id=model.spec.mask_id,
        )

    return model, make_rows


def _unmaskers(
    options: argparse.Namespace,
    console: Console,
    model: FrozenDLLM,
    make_rows: Callable[[int], list[Row]],
    block: int,
) -> list[str]:
    """The unmasker asked for, or the thresholds at which rows take as many passes as asked for."""
    if not options.target_nfe:
        return [options.unmasker]
    with console.status(f"block {block}: thresholds for {options.target_nfe} passes"):
        return [f"threshold:{threshold_for_nfe(model, make_rows, block, nfe):.6g}" for nfe in options.target_nfe]


def _memory(options: argparse.Namespace, console: Console) -> None:
    torch.set_num_threads(options.threads)
    shape = SHAPES[options.shape]
    if options.vocabulary is not None:
        shape = dataclasses.replace(shape, vocabulary_size=options.vocabulary)
    case = Case(options.shape, shape, options.dtype, options.device, options.prompt, options.canvas)
    block_length = options.block_length or options.canvas
    if options.canvas % block_length:
        raise UserError(f"--block-length is {block_length}; allowed: a divisor of --canvas, {options.canvas}")
    unmasker = _parse_unmasker(options.unmasker, options.device)
    # On a CPU the first table is made by other processes, which build the model themselves.
    built = None if case.device == "cpu" else case.build()
    record: dict[str, Any] = {"case": dataclasses.asdict(case)}
    if not options.skip_reduction:
        with console.status("measuring one forward pass"):
            methods = measure_reduction(case, None if built is None else built[0], options.batch_sizes)
        console.print(reduction_table(case, methods))
        record["reduction"] = [dataclasses.asdict(line) | {"bytes_per_row": line.bytes_per_row} for line in methods]
    if options.rows:
        model, build_s = built or case.build()
        with console.status("decoding"):
            figures = measure_decode(
                model, case, unmasker, build_s=build_s, num_rows=options.rows, block_length=block_length
            )
        console.print(decode_table(case, figures, f"unmasker {options.unmasker}, blocks of {block_length}"))
        record["decode"] = dataclasses.asdict(figures)
    _write_json(options, **record)


def _write_json(options: argparse.Namespace, **record: Any) -> None:
    if options.json:
        document = {
            "environment": environment_record(options.device),
            "unmasker": options.unmasker,
            "threads": options.threads,
            **record,
        }
        Path(options.json).write_text(json.dumps(document, indent=1))


def _check_device(name: str) -> None:
    if name.partition(":")[0] not in ("cpu", "cuda"):
        raise UserError(f"--device is {name!r}; allowed: cpu, cuda, cuda:NUMBER")
    try:
        torch.empty(0, device=name)
    except (RuntimeError, AssertionError) as error:
        raise UserError(f"--device is {name!r}: {str(error).splitlines()[0]}") from error


_BENCHES = {"rollouts": _rollouts, "overhead": _overhead, "cache": _cache, "memory": _memory}


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one benchmark; returns the exit code."""
    options, console = bench_parser().parse_args(arguments), wide_console()
    try:
        _check_device(options.device)
        check_json(options.json)
        _BENCHES[options.bench](options, console)
    except (UserError, ModelError, DeadlineExceeded) as error:
        console.print(f"error: {error}", style="red", soft_wrap=True)
        return ExitCode.CRASH if isinstance(error, DeadlineExceeded) else ExitCode.USER_ERROR
    return ExitCode.FINISHED


if __name__ == "__main__":
    sys.exit(main())
