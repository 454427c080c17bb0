"""Loading a sharded checkpoint needs the memory of its model and of one tensor, whatever the shards' size."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.fakes.checkpoints import HEAD_ROWS, save_shards, write_llada

WIDTH, FEED_FORWARD, LAYERS, SHARDS = 1024, 4096, 8, 4
MIB = 2**20
MEASURE = """
import json, sys
from pathlib import Path
import torch
from rollout_workers.models.checkpoint import Checkpoint
from rollout_workers.models.llada import LLADA
from rollout_workers.models.weights import load_backbone

def status(name):
    lines = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(lines[name].split()[0]) * 1024

dtype = getattr(torch, sys.argv[2])
checkpoint = Checkpoint.open(Path(sys.argv[1]))
torch.zeros(1).to(torch.bfloat16)
Path("/proc/self/clear_refs").write_text("5")
before = status("VmRSS")
model = load_backbone(checkpoint, LLADA, dtype, "cpu")
size = sum(parameter.numel() * parameter.element_size() for parameter in model.parameters())
largest = max(parameter.numel() * parameter.element_size() for parameter in model.parameters())
mapped = sum(sys.argv[1] in line for line in Path("/proc/self/maps").read_text().splitlines())
print(json.dumps({"peak": status("VmHWM") - before, "model": size, "largest": largest, "mapped": mapped}))
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of 256 MiB in bfloat16, in four shards; its largest tensors have 8 MiB."""
    path = tmp_path_factory.mktemp("large")
    write_llada(
        path, num_shards=1, kv_heads=None, d_model=WIDTH, mlp_hidden_size=FEED_FORWARD, n_layers=LAYERS, n_heads=8
    )
    (path / "model.safetensors").unlink()
    outer, make = "model.transformer", torch.Generator().manual_seed(0)
    shapes: dict[str, tuple[int, ...]] = {
        f"{outer}.wte.weight": (HEAD_ROWS, WIDTH), f"{outer}.ln_f.weight": (WIDTH,), f"{outer}.ff_out.weight": (HEAD_ROWS, WIDTH)
    }  # fmt: skip
    for i in range(LAYERS):
        block = f"{outer}.blocks.{i}"
        shapes |= {f"{block}.{name}.weight": (WIDTH,) for name in ("attn_norm", "ff_norm")}
        shapes |= {f"{block}.{name}.weight": (WIDTH, WIDTH) for name in ("q_proj", "k_proj", "v_proj", "attn_out")}
        shapes |= {f"{block}.{name}.weight": (FEED_FORWARD, WIDTH) for name in ("ff_proj", "up_proj")}
        shapes[f"{block}.ff_out.weight"] = (WIDTH, FEED_FORWARD)
    tensors = {name: torch.randn(shape, generator=make).to(torch.bfloat16) for name, shape in shapes.items()}
    save_shards(path, tensors, SHARDS)
    return path


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_the_peak_is_the_model_and_one_tensor(folder: Path, dtype: str) -> None:
    command = [sys.executable, "-c", MEASURE, str(folder), dtype]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stderr
    got = json.loads(done.stdout)
    shard = max(path.stat().st_size for path in folder.glob("*.safetensors"))
    over = got["peak"] - got["model"]
    assert over < 3 * got["largest"] + 8 * MIB, f"{over / MIB:.0f} MiB beyond the model's {got['model'] / MIB:.0f}"
    assert over < shard
    # Nothing of the files stays mapped, so replacing them under a running model is safe.
    assert got["mapped"] == 0
