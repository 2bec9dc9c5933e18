"""array-api-strict: refuses what the Array API 2024.12 does not promise, and so proves that the code is portable."""

import array_api_strict as xp
import numpy as np

from dfm_ref.protocols import Backend

xp.set_array_api_strict_flags(api_version="2024.12")

backend = Backend("strict", xp, asarray=xp.asarray, to_numpy=np.asarray)
