"""Memory and time of a model of a real size with random weights: `python -m evaluation.bench memory`.

The first table is the peak of one forward pass over B rows whose whole canvas is predicted, by the adapter and by what public code
does: logits of every position in the model's dtype, a softmax over the whole of them, then top-k. Its bytes per row are the slope
over the larger half of the batches by least squares, so what does not grow with B drops out. Small batches say nothing of it: until
the positions fill several pieces of the reduction, these are most of the memory. The second table decodes with a sampler.

On a GPU peaks are the allocator's. On a CPU they are the kernel's high-water mark of a process that does nothing else, one process
for each method; its batches grow, so that each mark is its own batch's.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from rich.table import Table
from torch import Tensor

from cluster.errors import DeadlineExceeded, UserError
from evaluation.random_models import Shape, random_model
from policy.unmasker import Unmasker
from rollout_workers.engine import Engine
from rollout_workers.models.backbone import BackboneDLLM
from rollout_workers.models.backoff import is_out_of_memory
from rollout_workers.models.load import DTYPES
from rollout_workers.sequence import Sequence as Row

CHILD_DEADLINE_S = 1800.0


def adapter(model: BackboneDLLM, prompt_BP: Tensor, canvas_BL: Tensor) -> None:
    """What the engine does."""
    length_B = torch.full((len(prompt_BP),), prompt_BP.shape[1], device=model.device)
    model.predict(prompt_BP, length_B, canvas_BL, torch.ones_like(canvas_BL, dtype=torch.bool))


def _naive(dtype: torch.dtype | None) -> Callable[[BackboneDLLM, Tensor, Tensor], None]:
    @torch.no_grad()
    def predict(model: BackboneDLLM, prompt_BP: Tensor, canvas_BL: Tensor) -> None:
        logits_BSV = model.model(input_ids=torch.cat([prompt_BP, canvas_BL], 1)).logits
        p_BSV = torch.softmax(logits_BSV if dtype is None else logits_BSV.to(dtype), -1)
        p_BSV.topk(1, dim=-1)

    return predict


ADAPTER = "adapter"
METHODS: dict[str, Callable[[BackboneDLLM, Tensor, Tensor], None]] = {
    ADAPTER: adapter,
    "naive, softmax as it comes": _naive(None),
    "naive, softmax in float32": _naive(torch.float32),
    "naive, softmax in float64": _naive(torch.float64),
}
"""The naive ones differ in the dtype of their softmax; published samplers use all three."""


@dataclass(frozen=True, slots=True)
class Case:
    """What is measured; plain values, so that it can be sent to another process."""

    shape_name: str
    shape: Shape
    dtype: str
    device: str
    prompt_length: int
    canvas_length: int

    def build(self) -> tuple[BackboneDLLM, float]:
        """The model, and the seconds that making it took."""
        started = time.perf_counter()
        model = random_model(self.shape_name, self.shape, dtype=DTYPES[self.dtype], device=self.device)
        if model.device.type == "cuda":
            torch.cuda.synchronize(model.device)
        return model, time.perf_counter() - started

    def inputs(self, num_rows: int) -> tuple[Tensor, Tensor]:
        """(prompts `[B, P]`, canvases of masks `[B, L]`)."""
        mask = self.shape.vocabulary_size - 1
        prompt_BP = torch.randint(0, mask - 1, (num_rows, self.prompt_length), device=self.device)
        return prompt_BP, torch.full((num_rows, self.canvas_length), mask, device=self.device)


@dataclass(frozen=True, slots=True)
class MethodFigures:
    """Peaks of one method beyond the model's weights, in bytes."""

    method: str
    batch_sizes: tuple[int, ...]
    peak_bytes: tuple[int | None, ...]
    """None for what did not fit into memory."""

    @property
    def bytes_per_row(self) -> float | None:
        """Slope of the peak over the batch size, by least squares over the larger half, at least two; None of fewer that fitted."""
        fitted = [(x, y) for x, y in zip(self.batch_sizes, self.peak_bytes, strict=True) if y is not None]
        if len(fitted) < 2:
            return None
        pairs = fitted[-max(2, len(fitted) // 2) :]
        sizes, peaks = zip(*pairs, strict=True)
        return statistics.linear_regression(sizes, peaks).slope


@dataclass(frozen=True, slots=True)
class DecodeFigures:
    """One decode of all rows as one batch."""

    num_parameters: int
    weight_bytes: int
    build_s: float
    num_rows: int
    num_passes: int
    mean_nfe: float
    decode_s: float
    peak_bytes: int
    """Beyond the weights."""


class Peak:
    """The most memory in use since `start`, beyond what was in use then."""

    def __init__(self, device: str) -> None:
        self._device = device
        self._base = 0

    def start(self) -> None:
        if self._device == "cpu":
            with contextlib.suppress(OSError):  # where the mark cannot be reset, growing batches still set it anew
                Path("/proc/self/clear_refs").write_text("5")
            self._base = _kernel_bytes("VmRSS")
            return
        torch.cuda.synchronize(self._device)
        torch.cuda.reset_peak_memory_stats(self._device)
        self._base = torch.cuda.memory_allocated(self._device)

    def bytes(self) -> int:
        if self._device == "cpu":
            return max(0, _kernel_bytes("VmHWM") - self._base)
        torch.cuda.synchronize(self._device)
        return torch.cuda.max_memory_allocated(self._device) - self._base


def _kernel_bytes(field: str) -> int:
    """A line of this process's status, which the kernel gives in KiB."""
    path = Path("/proc/self/status")
    if not path.is_file():
        raise UserError("--device cpu reads memory from /proc/self/status, which this system lacks; allowed: cuda")
    lines = dict(line.split(":", 1) for line in path.read_text().splitlines())
    return int(lines[field].split()[0]) * 1024


def measure_method(model: BackboneDLLM, case: Case, method: str, batch_sizes: Sequence[int]) -> MethodFigures:
    """Peaks of one method in this process; the batch sizes grow, up to the first that does not fit into memory."""
    predict = METHODS[method]
    predict(model, *case.inputs(1))
    peak = Peak(case.device)
    peaks: list[int | None] = []
    for num_rows in batch_sizes:
        inputs = case.inputs(num_rows)
        peak.start()
        try:
            predict(model, *inputs)
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            peaks += [None] * (len(batch_sizes) - len(peaks))
            break
        peaks.append(peak.bytes())
    return MethodFigures(method, tuple(batch_sizes), tuple(peaks))


def measure_reduction(case: Case, model: BackboneDLLM | None, batch_sizes: Sequence[int]) -> list[MethodFigures]:
    """All methods: with `model`, or with None each in a process of its own."""
    sizes = sorted(set(batch_sizes))
    if len(sizes) < 2:
        raise UserError(f"--batch-sizes is {list(batch_sizes)}; allowed: two sizes or more, for a slope")
    if model is None:
        return [_in_child(case, method, sizes) for method in METHODS]
    return [measure_method(model, case, method, sizes) for method in METHODS]


def _in_child(case: Case, method: str, batch_sizes: Sequence[int]) -> MethodFigures:
    order = json.dumps([dataclasses.asdict(case), method, list(batch_sizes)])
    command = [sys.executable, "-c", "from evaluation.bench_memory import child; child()", order]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=CHILD_DEADLINE_S, check=False)
    except subprocess.TimeoutExpired as error:
        raise DeadlineExceeded.waiting_for(
            f"the memory of {method!r}", seconds=CHILD_DEADLINE_S, missing="its figures"
        ) from error
    if done.returncode < 0:
        raise UserError(f"--batch-sizes is {list(batch_sizes)}; {method!r} ran out of memory; allowed: smaller ones")
    assert done.returncode == 0, done.stderr
    return MethodFigures(method, tuple(batch_sizes), tuple(json.loads(done.stdout)))


def child() -> None:
    """Measures what the command line says and writes the peaks to stdout."""
    fields, method, batch_sizes = json.loads(sys.argv[1])
    case = Case(**fields | {"shape": Shape(**fields["shape"])})
    model, _ = case.build()
    sys.stdout.write(json.dumps(measure_method(model, case, method, batch_sizes).peak_bytes))


def measure_decode(
    model: BackboneDLLM, case: Case, unmasker: Unmasker, *, build_s: float, num_rows: int, block_length: int
) -> DecodeFigures:
    """Decodes `num_rows` random prompts of different lengths as one batch."""
    peak = Peak(case.device)
    peak.start()
    generator = torch.Generator().manual_seed(0)
    rows = []
    for key in range(num_rows):
        length = case.prompt_length - key % (case.prompt_length // 2 + 1)
        prompt = torch.randint(0, model.spec.mask_id - 1, (length,), generator=generator).tolist()
        rows.append(Row(f"random/{key}", prompt, [model.spec.mask_id] * case.canvas_length, block_length, key))
    started = time.perf_counter()
    stats = Engine(model, unmasker, num_slots=num_rows).decode(rows).stats
    peak_bytes = peak.bytes()
    parameters = list(model.model.parameters())
    return DecodeFigures(
        num_parameters=sum(parameter.numel() for parameter in parameters),
        weight_bytes=sum(parameter.numel() * parameter.element_size() for parameter in parameters),
        build_s=build_s,
        num_rows=num_rows,
        num_passes=stats.num_steps,
        mean_nfe=stats.num_row_forwards / num_rows,
        decode_s=time.perf_counter() - started,
        peak_bytes=peak_bytes,
    )


def reduction_table(case: Case, figures: Sequence[MethodFigures]) -> Table:
    """One line for each method."""
    sizes = f"V = {case.shape.vocabulary_size:,}, P = {case.prompt_length}, L = {case.canvas_length}"
    table = Table(
        title=f"peak of one forward pass beyond the weights, in MB\n{_describe(case)}, {sizes}", title_justify="left"
    )
    table.add_column("method")
    for num_rows in figures[0].batch_sizes:
        table.add_column(f"B = {num_rows}", justify="right")
    table.add_column("MB per row", justify="right")
    table.add_column(f"of the adapter's at B = {figures[0].batch_sizes[-1]}", justify="right")
    ours = next(line.peak_bytes[-1] for line in figures if line.method == ADAPTER)
    for line in figures:
        last = line.peak_bytes[-1]
        ratio = "-" if last is None or ours is None else f"{last / max(1, ours):.1f}x"
        peaks = ["out of memory" if peak is None else f"{peak / 1e6:,.0f}" for peak in line.peak_bytes]
        each = "-" if line.bytes_per_row is None else f"{line.bytes_per_row / 1e6:,.2f}"
        table.add_row(line.method, *peaks, each, ratio)
    return table


def decode_table(case: Case, figures: DecodeFigures, how: str) -> Table:
    """One line."""
    table = Table(
        title=f"{figures.num_rows} rows x {case.canvas_length} positions, {how}\n{_describe(case)}",
        title_justify="left",
    )
    for name in ("parameters", "weights GB", "built in s", "passes", "NFE", "s", "rows/s", "ms per pass",
                 "peak beyond weights GB", "peak GB"):  # fmt: skip
        table.add_column(name, justify="right")
    table.add_row(
        f"{figures.num_parameters:,}",
        f"{figures.weight_bytes / 1e9:.2f}",
        f"{figures.build_s:.1f}",
        str(figures.num_passes),
        f"{figures.mean_nfe:.1f}",
        f"{figures.decode_s:.1f}",
        f"{figures.num_rows / figures.decode_s:.2f}",
        f"{1000 * figures.decode_s / max(1, figures.num_passes):.1f}",
        f"{figures.peak_bytes / 1e9:.2f}",
        f"{(figures.weight_bytes + figures.peak_bytes) / 1e9:.2f}",
    )
    return table


def _describe(case: Case) -> str:
    return f"{case.shape_name} in {case.dtype} on {case.device}"
