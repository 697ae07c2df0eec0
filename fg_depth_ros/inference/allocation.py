"""How the C library hands out memory while a network runs on the CPU."""

from __future__ import annotations

import ctypes
from functools import cache

# glibc's mallopt(3)
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
_LARGEST_THRESHOLD = 32 * 2**20  # what glibc accepts for the second on 64-bit machines


@cache
def keep_freed_memory() -> bool:
    """Keep freed memory in the process for the next pair. Returns whether the C library took the setting.

    By default glibc gives every large buffer back to the system and gets it again, zeroed page by page, for the next
    layer; with megabytes per layer that costs a fifth of the time. The process keeps the memory of its largest pair.
    Other C libraries are left as they are.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return False
    taken = [mallopt(_M_MMAP_THRESHOLD, _LARGEST_THRESHOLD), mallopt(_M_TRIM_THRESHOLD, 2**31 - 1)]
    return all(taken)
