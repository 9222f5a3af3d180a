"""Large buffers without page faults, for a process that receives megabytes with every request."""

from __future__ import annotations

import ctypes

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # malloc.h of glibc
MALLOC_ENVIRONMENT = {"MALLOC_MMAP_THRESHOLD_": "1073741824", "MALLOC_TRIM_THRESHOLD_": "2147483647"}
"""The same for a process that somebody starts: it also covers what is allocated before Python runs."""


def keep_large_buffers() -> bool:
    """Make glibc keep freed megabytes instead of returning them to the kernel; False where the C library is another.

    By default every buffer of some megabytes is mapped and unmapped anew and costs a page fault every 4 KB: at 16 MB
    about half of a request's time. Call it first thing in a program; a library must not, the price is memory that
    stays with the process (what its largest moment needed).
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError):
        return False
    return bool(mallopt(_M_MMAP_THRESHOLD, 2**30) and mallopt(_M_TRIM_THRESHOLD, 2**31 - 1))
