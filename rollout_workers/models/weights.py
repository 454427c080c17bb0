"""A checkpoint's tensors into a bidirectional backbone: each goes to its device in its dtype as it is read.

A tensor that is missing, misshapen or of another architecture is named with its file.
"""

from __future__ import annotations

import torch
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn
from torch import Tensor

from cluster.logs import console
from rollout_workers.models.backbone import Backbone, bidirectional, make_buffers
from rollout_workers.models.checkpoint import CONFIG, Checkpoint
from rollout_workers.models.family import Family

PROGRESS_BYTES = 2**30
"""From this size on, loading shows a bar on a terminal and leaves a line in the log."""


def load_backbone(
    checkpoint: Checkpoint, family: Family, dtype: torch.dtype, device: str, *, title: str = "model"
) -> Backbone:
    """The backbone with the checkpoint's tensors; `title` names it on the progress bar."""
    with torch.device("meta"):
        model = bidirectional(family.make_config(checkpoint))
    needed = {name: tuple(value.shape) for name, value in model.state_dict().items()}
    if model.config.tie_word_embeddings:
        del needed["lm_head.weight"]
    origin: dict[str, str] = {}
    with _progress(disable=checkpoint.num_bytes < PROGRESS_BYTES) as progress:
        bar = progress.add_task(f"loading {title}", total=checkpoint.num_bytes)
        for name, tensor, num_bytes in checkpoint.tensors(dtype, device):
            target = family.tensor_name(name)
            _check_tensor(checkpoint, family, name, tensor, needed.get(target), origin.get(target))
            origin[target] = name
            model.load_state_dict({target: tensor}, strict=False, assign=True)
            progress.advance(bar, num_bytes)
    if missing := sorted(needed.keys() - origin.keys()):
        raise checkpoint.error(f"its weights lack {len(missing)} tensors, the first: {missing[0]!r}")
    model.tie_weights()
    make_buffers(model, device)
    return model


def _progress(*, disable: bool) -> Progress:
    """A bar of bytes read, gone once it is full; nothing where there is no terminal."""
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(binary_units=True),
        TimeRemainingColumn(),
        console=console(),
        transient=True,
        disable=disable or not console().is_terminal,
    )


def _check_tensor(
    checkpoint: Checkpoint,
    family: Family,
    name: str,
    tensor: Tensor,
    needed: tuple[int, ...] | None,
    before: str | None,
) -> None:
    file = checkpoint.shard_of[name]
    if needed is None:
        raise checkpoint.error(f"{file} holds {name!r}, which this architecture does not have")
    if before is not None:
        raise checkpoint.error(f"{file} holds {name!r} besides {before!r}, and both are the same tensor")
    key = family.rows_key(checkpoint)
    rows = checkpoint.integer(key)
    if needed[0] == rows != tensor.shape[0] and tuple(tensor.shape[1:]) == needed[1:]:
        raise checkpoint.error(f"{file} holds {name!r} with {tensor.shape[0]} rows, {CONFIG} says {key} is {rows}")
    if tuple(tensor.shape) != needed:
        raise checkpoint.error(f"{file} holds {name!r} as {list(tensor.shape)}; its config needs {list(needed)}")
