"""NumPy: the default, always there."""

import contextlib
import ctypes
import sys

import array_api_compat.numpy as xp
import numpy as np

from dfm_ref.protocols import Backend

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # of glibc's malloc.h


def _keep_freed_memory() -> None:
    """Lets glibc keep what is freed, for the next array; else every step of training gives the heap back to the
    kernel and faults it in again, page by page, which takes longer than any arithmetic but the matrix products."""
    with contextlib.suppress(AttributeError, OSError):  # another C library
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(_M_MMAP_THRESHOLD, 1 << 30)
        mallopt(_M_TRIM_THRESHOLD, 2**31 - 1)


if sys.platform == "linux":
    _keep_freed_memory()

backend = Backend("numpy", xp, asarray=np.asarray, to_numpy=np.asarray)
