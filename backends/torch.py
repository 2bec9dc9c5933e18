"""PyTorch: runs the pure code on its tensors, on the CPU."""

import array_api_compat.torch as xp

from dfm_ref.protocols import Backend

backend = Backend("torch", xp, asarray=xp.asarray, to_numpy=lambda x: x.detach().cpu().numpy())
