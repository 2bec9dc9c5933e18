"""Flow matching: regression on velocities, one loss a point, each beside its gradient in v; and a step for a network.

    L_FM(theta)  = E_{t, x ~ p_t}             |v_t(x; theta) - u_t(x)|^2              marginal_loss
    L_CFM(theta) = E_{t, x_1 ~ q, x_0 ~ N(0, I)} |v_t(psi_t(x_0); theta) - d psi_t(x_0) / dt|^2   conditional_loss

differ by a number that no theta changes, and so have one gradient. Source: Lipman et al. 2023, Theorem 2.
"""

from typing import Any, Protocol

from .. import checks, random
from ..arrays import like, namespace, widen
from ..checks import same_shape
from ..protocols import Array, Key, Params
from ..times import low_discrepancy
from .gaussian_paths import GaussianPath, interpolate, interpolate_dot, marginal_velocity

__all__ = [
    "Network",
    "conditional_loss",
    "conditional_loss_with_grad",
    "gradients",
    "marginal_loss",
    "marginal_loss_with_grad",
]


class Network(Protocol):
    """A velocity v(x, t; params), or of one of `classes` labels, as a pair; `classes` itself is no label."""

    @property
    def classes(self) -> int: ...
    def forward(self, params: Params, x: Array, t: Array, *, label: Array | None = None) -> tuple[Array, Any]: ...
    def backward(self, params: Params, residuals: Any, dv: Array) -> Params: ...


def conditional_loss(path: GaussianPath, v: Array, x_0: Array, x_1: Array, t: Array) -> Array:
    """|v - (mu_dot x_1 + sigma_dot x_0)|^2 of v at psi_t(x_0): float[..., D] thrice -> float[...].

    t is a number or float[...]. The pair may be of any coupling. The mean over pairs and t ~ U[0, 1] is least at the
    velocity that generates p_t.
    ValueError where a rate is infinite. Source: Lipman et al. 2023, the CFM loss of section 4.

    >>> import numpy as np
    >>> from .gaussian_paths import OptimalTransport
    >>> conditional_loss(OptimalTransport(), np.array([1.0, 1.0]), np.array([0.0, 0.0]), np.array([1.0, 3.0]), 0.5)
    np.float64(4.0)
    """
    return _squared_error(v, interpolate_dot(path, x_0, x_1, t))[0]


def conditional_loss_with_grad(path: GaussianPath, v: Array, x_0: Array, x_1: Array, t: Array) -> tuple[Array, Array]:
    """The loss, float[...], and its gradient 2 (v - (mu_dot x_1 + sigma_dot x_0)) in v, float[..., D].

    >>> import numpy as np
    >>> from .gaussian_paths import OptimalTransport
    >>> conditional_loss_with_grad(OptimalTransport(), np.array([1.0]), np.array([0.0]), np.array([3.0]), 0.5)[1]
    array([-4.])
    """
    return _squared_error(v, interpolate_dot(path, x_0, x_1, t))


def marginal_loss(path: GaussianPath, v: Array, data: Array, q: Array, x_t: Array, t: Array) -> Array:
    """|v - u_t(x)|^2 of v at x, u_t the marginal velocity of finite data: float[..., D] twice -> float[...].

    data: float[K, D], q: float[K]. Domain: sigma_t > 0. Source: Lipman et al. 2023, the FM loss of section 3.

    >>> import numpy as np
    >>> from .gaussian_paths import OptimalTransport
    >>> marginal_loss(OptimalTransport(), np.ones(1), np.array([[-1.0], [1.0]]), np.full(2, 0.5), np.zeros(1), 0.5)
    np.float64(1.0)
    """
    return _squared_error(v, marginal_velocity(path, data, q, x_t, t))[0]


def marginal_loss_with_grad(
    path: GaussianPath, v: Array, data: Array, q: Array, x_t: Array, t: Array
) -> tuple[Array, Array]:
    """The loss, float[...], and its gradient 2 (v - u_t(x)) in v, float[..., D].

    >>> import numpy as np
    >>> from .gaussian_paths import OptimalTransport
    >>> v, data, q = np.ones(1), np.array([[-1.0], [1.0]]), np.full(2, 0.5)
    >>> marginal_loss_with_grad(OptimalTransport(), v, data, q, np.zeros(1), 0.5)[1]
    array([2.])
    """
    return _squared_error(v, marginal_velocity(path, data, q, x_t, t))


def gradients(
    path: GaussianPath,
    net: Network,
    params: Params,
    key: Key,
    x_0: Array,
    x_1: Array,
    *,
    labels: Array | None = None,
    label_dropout: float = 0.1,
    T: float = 1.0,
) -> tuple[Array, Params]:
    """The mean conditional loss of a batch of pairs, float[B, D] twice, and its gradient in the parameters.

    One time a pair, stratified over [0, T). Labels, int[B], of a net with classes; each is dropped with probability
    `label_dropout`, so that the net learns the unconditional velocity beside the conditional one (see
    `predictions.guided`). Rates are bounded but for a `VariancePreserving` path with beta_min > 0: its target grows
    like 1 / sqrt(1 - t), and has no finite variance at T = 1. There take T < 1, such as 0.999.
    Source: Lipman et al. 2023; Kingma et al. 2021 (the times); Ho and Salimans 2022 (the labels).

    >>> import numpy as np
    >>> from ..nn.field import Field
    >>> from .gaussian_paths import OptimalTransport
    >>> net = Field(dim=2, hidden=8)  # whose velocity is 0 at first
    >>> params, x_1 = net.init(Key(0, 0)), np.array([[3.0, 4.0], [0.0, 5.0]])
    >>> loss, _ = gradients(OptimalTransport(), net, params, Key(0, 1), np.zeros((2, 2)), x_1)
    >>> float(loss)
    25.0
    """
    if not 0 < T <= 1:
        raise ValueError(f"T: expected a time in (0, 1], got {T}")
    if not 0 <= label_dropout <= 1:
        raise ValueError(f"label_dropout: expected a share in [0, 1], got {label_dropout}")
    checks.batch("x_1", x_1)
    time_key, label_key = random.split(key)
    batch, xp = x_1.shape[0], namespace(x_1)
    t = T * low_discrepancy(time_key, batch, xp=xp)
    if labels is not None:
        checks.tokens("labels", labels, net.classes + 1)  # one of them is no label
        dropped = random.uniform(label_key, (batch,), xp=xp) < label_dropout
        labels = xp.where(dropped, like(labels, net.classes, labels.dtype), labels)
    v, residuals = net.forward(params, interpolate(path, x_0, x_1, t), t, label=labels)
    loss, dv = conditional_loss_with_grad(path, v, x_0, x_1, t)
    return xp.mean(loss), net.backward(params, residuals, dv / batch)


def _squared_error(v: Array, u: Array) -> tuple[Array, Array]:
    """|v - u|^2 over the last axis, and 2 (v - u)."""
    same_shape(u=u, v=v)
    error = widen(v) - u
    return namespace(error).vecdot(error, error), 2 * error
