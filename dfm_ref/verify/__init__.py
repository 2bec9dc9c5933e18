"""The verifier: is an implementation of (discrete) flow matching right? An adapter is `build(case) -> object`."""

from .cases import Case
from .flow_cases import FlowCase

__all__ = ["Case", "FlowCase"]
