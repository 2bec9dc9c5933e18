"""PyTorch: runs the pure code on its tensors, on the CPU."""

import array_api_compat.torch as xp
import numpy as np

from dfm_ref.protocols import Backend

backend = Backend(
    "torch",
    xp,
    asarray=lambda x: xp.asarray(np.require(x, requirements=["C", "W"])),
    to_numpy=lambda x: x.detach().cpu().numpy(),
)
