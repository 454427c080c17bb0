"""The C library's allocator, told to keep what tensors free: by default most of a forward pass's memory goes back to the system
when it ends, and the next pass pays page faults for it."""

from __future__ import annotations

import ctypes
import platform

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
_LARGEST_MMAP_THRESHOLD = 32 * 2**20
"""glibc refuses more."""
_KEPT_BYTES = 2**30


def keep_freed_memory() -> bool:
    """Lets this process reuse freed blocks up to 32 MiB and keep 1 GiB of them; False where the C library is not glibc."""
    if platform.libc_ver()[0] != "glibc":
        return False
    mallopt = ctypes.CDLL(None).mallopt
    return bool(mallopt(_M_MMAP_THRESHOLD, _LARGEST_MMAP_THRESHOLD)) and bool(mallopt(_M_TRIM_THRESHOLD, _KEPT_BYTES))
