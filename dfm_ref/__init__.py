"""dfm_ref: the reference implementation of Discrete Flow Matching.

Pure functions over the arrays of any library that follows the Array API: paths, velocities, losses and samplers.
"""

__version__ = "0.1.0"
