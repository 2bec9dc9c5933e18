"""CuPy: NumPy's code on a CUDA device."""

import array_api_compat.cupy as xp
import cupy

from dfm_ref.protocols import Backend

from . import BackendError

if not cupy.cuda.is_available():
    raise BackendError(
        "backend cupy: expected a CUDA device, found none. Install an NVIDIA driver, or use --backend numpy"
    )

backend = Backend(
    "cupy",
    xp,
    asarray=xp.asarray,
    to_numpy=cupy.asnumpy,
    synchronize=lambda: cupy.cuda.get_current_stream().synchronize(),
)
