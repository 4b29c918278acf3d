"""A setting of the C library's allocator that training on a CPU wants. May import the standard library only."""

import ctypes
import platform

_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_MAX = -1, -2, -4  # malloc.h


def keep_freed_memory() -> bool:
    """Has glibc keep freed memory for the next step; returns whether the C library is glibc.

    By default a block of more than 32 MB goes back to the system when it is freed, and the next step pays for the same
    pages again: 2 us for each 4 KiB, six times what writing them takes, and 5 % of a whole ViT-B step. The process then
    stays as large as its peak.
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    mallopt = ctypes.CDLL(None).mallopt
    mallopt(_M_MMAP_MAX, 0)
    mallopt(_M_TRIM_THRESHOLD, -1)  # becomes the largest size_t
    mallopt(_M_TOP_PAD, 1 << 28)
    return True
