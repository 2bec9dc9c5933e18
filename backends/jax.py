"""JAX: runs the pure code on its arrays. Loading it enables 64-bit types, which the coins need."""

import jax
import jax.numpy as xp
import numpy as np

from dfm_ref.protocols import Backend

jax.config.update("jax_enable_x64", True)

backend = Backend(
    "jax", xp, asarray=xp.asarray, to_numpy=np.asarray, synchronize=lambda: xp.zeros(()).block_until_ready()
)
