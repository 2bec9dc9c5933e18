"""A right path in another style: the linear one alone, by scipy's softmax and x_1-prediction, without a derivative."""

from typing import Any, TypeAlias

import numpy as np
from scipy.special import softmax

__all__ = ["Predicted", "build"]

Array: TypeAlias = np.ndarray[Any, Any]


class Predicted:
    """x_t = t x_1 + (1 - t) x_0, u_t(x) = (E[x_1 | x] - x) / (1 - t)."""

    def __init__(self, case: Any) -> None:
        self.data, self.q = np.array(case.data), np.array(case.q)

    def sample_path(self, x_0: Array, x_1: Array, t: Array, seed: int) -> Array:
        """x_t alone."""
        self._check(t, x_0, x_1)
        return np.asarray(t[:, None] * x_1 + (1 - t[:, None]) * x_0)

    def velocity(self, x: Array, t: Array) -> Array:
        """The marginal velocity, for t < 1."""
        self._check(t, x)
        time = t[:, None]
        squares = np.sum(self.data**2, axis=1)
        logits = np.log(self.q) + (time * (x @ self.data.T) - time**2 * squares / 2) / (1 - time) ** 2
        return np.asarray((softmax(logits, axis=1) @ self.data - x) / (1 - time))

    def _check(self, t: Array, *points: Array) -> None:
        if any(x.shape != (len(t), self.data.shape[1]) for x in points) or not np.all((t >= 0) & (t <= 1)):
            raise ValueError("expected points of the dimension of the data, and a time in [0, 1] each")


def build(case: Any) -> Predicted:
    """The path of a case, if it is the linear one.

    >>> from dfm_ref.verify import FlowCase
    >>> build(FlowCase(1, "ot", ((1.0,),), (1.0,))).velocity(np.zeros((1, 1)), np.array([0.5]))
    array([[2.]])
    """
    if case.path != "ot":
        raise NotImplementedError("the linear path alone")
    return Predicted(case)
