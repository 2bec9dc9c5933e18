"""NumPy: the default, always there."""

import array_api_compat.numpy as xp
import numpy as np

from . import Backend

backend = Backend("numpy", xp, asarray=np.asarray, to_numpy=np.asarray)
