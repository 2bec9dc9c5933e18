"""The right continuous implementation in single precision."""

from typing import Any

import numpy as np

from . import flows

__all__ = ["Flow", "Path", "build"]


class Flow(flows.Flow):
    """The flow in float32."""

    real = np.float32


class Path(flows.Path):
    """The path in float32."""

    real = np.float32


def build(case: Any) -> Flow | Path:
    """The implementation of a case.

    >>> from dfm_ref.verify import FlowCase
    >>> build(FlowCase(dim=2)).log_prob(np.zeros((1, 2))).dtype
    dtype('float32')
    """
    return Path(case) if case.path else Flow(case.dim)
