"""Forward passes reuse the memory of those before them."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

PAGE_FAULTS = """
import resource, sys
import torch
from cluster.allocator import keep_freed_memory
from rollout_workers.models.load import load_model

if sys.argv[1] == "keep":
    assert keep_freed_memory()
torch.set_num_threads(1)
model = load_model("tiny")
prompts, canvases = torch.full((16, 50), 5), torch.full((16, 48), model.spec.mask_id)
def forward():
    model.predict(prompts, torch.full((16,), 50), canvases, canvases == model.spec.mask_id)
for _ in range(3):
    forward()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(5):
    forward()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.slow  # a kernel that reclaims memory at the moment looks like a forward pass that gives it back
@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc is told to keep freed memory")
def test_kept_memory_saves_the_page_faults_of_a_forward_pass():
    kept, given_back = (
        int(
            subprocess.run([sys.executable, "-c", PAGE_FAULTS, mode], capture_output=True, text=True, check=True).stdout
        )
        for mode in ("keep", "default")
    )
    assert kept < given_back / 10
