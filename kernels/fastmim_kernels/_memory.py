"""Allocator setting of the C library for training on a CPU."""

import ctypes
import platform

_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_MAX = -1, -2, -4  # malloc.h


def keep_freed_memory() -> bool:
    """Makes glibc keep freed memory for the next step.

    By default, glibc returns a freed block of more than 32 MB to the system. The next step then pays for the same pages
    again: 2 us per 4 KiB, which is six times the time of writing them, and 5 % of a whole ViT-B step. With this setting
    the process stays as large as its peak.

    Returns: True if the C library is glibc.
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    mallopt = ctypes.CDLL(None).mallopt
    mallopt(_M_MMAP_MAX, 0)
    mallopt(_M_TRIM_THRESHOLD, -1)  # becomes the largest size_t
    mallopt(_M_TOP_PAD, 1 << 28)
    return True
