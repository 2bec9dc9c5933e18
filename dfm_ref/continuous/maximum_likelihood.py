"""Flow generative models: a flow f from noise z to data x, trained to make the data likely.

log p(x) = log p_z(f^-1(x)) + log|det df^-1/dx|, whose mean over data is maximised.
Sources: Dinh et al. 2015; Rezende and Mohamed 2015.
"""

from .. import checks
from ..arrays import namespace
from ..protocols import Array, Params
from .flows import Flow, inverted, standard_normal_log_density

__all__ = ["gradients"]


def gradients(flow: Flow, params: Params, x: Array) -> tuple[Array, Params]:
    """The mean of -log p(x) over float[B, D], in nats, and its gradient in the parameters.

    Quick where the flow is `Inverted`, so that the map from data to noise is one that has a backward pass; else the
    inverse is differentiated by the implicit function theorem. Raises ValueError without points.
    Source: Dinh et al. 2015.

    >>> import numpy as np
    >>> from .affine import Affine
    >>> flow = Affine(1)
    >>> loss, grads = gradients(flow, {"log_scale": np.zeros(1), "shift": np.zeros(1)}, np.array([[1.0], [2.0]]))
    >>> round(float(loss), 4), grads["shift"]
    (2.1689, array([-1.5]))
    """
    checks.batch("x", x, dim=flow.dim)
    normalizing = inverted(flow)
    z, log_det, residuals = normalizing.forward(params, x)
    loss = -(standard_normal_log_density(z) + log_det)
    batch = x.shape[0]
    dparams, _ = normalizing.backward(params, residuals, z / batch, namespace(z).full_like(log_det, -1 / batch))
    return namespace(z).mean(loss), dparams
