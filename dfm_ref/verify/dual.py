"""Dual numbers as an array library: code written against the Array API differentiates itself, exactly.

A dual number is a + eps b with eps^2 = 0, so that f(a + eps b) = f(a) + eps f'(a) b. The namespace has a rule for what
flows are made of; other functions of NumPy see the values alone, and so are for what has no derivative: shapes,
comparisons, indices. What the code holds besides, as parameters, comes in as `constants`.
Source: Griewank & Walther 2008, chapter 3 (the forward mode).
"""

import operator
from collections.abc import Callable
from typing import Any, TypeAlias

import array_api_compat.numpy as np

__all__ = ["Dual", "constants", "tangent"]

Rule: TypeAlias = Callable[..., Any]


class Dual:
    """Arrays of values and of tangents, of one shape; comparisons see the values.

    >>> x = Dual(np.asarray([0.0, 2.0]), np.asarray([1.0, 1.0]))
    >>> x * x + 1
    Dual(array([1., 5.]), array([0., 4.]))
    """

    __array_ufunc__ = None  # NumPy's arrays leave what is mixed to this class
    device = "cpu"

    def __init__(self, value: Any, tangent: Any) -> None:
        self.value = np.asarray(value)
        self.tangent = np.broadcast_to(np.asarray(tangent, dtype=self.value.dtype), self.value.shape)

    def __repr__(self) -> str:
        return f"Dual({self.value!r}, {self.tangent!r})"

    def __array_namespace__(self, *, api_version: str | None = None) -> Any:
        return _NAMESPACE

    def __getattr__(self, name: str) -> Any:
        if name in ("dtype", "shape", "ndim", "size"):
            return getattr(self.value, name)
        if name in ("T", "mT"):
            return Dual(getattr(self.value, name), getattr(self.tangent, name))
        raise AttributeError(name)

    def __getitem__(self, key: Any) -> "Dual":
        return Dual(self.value[key], self.tangent[key])

    def __neg__(self) -> "Dual":
        return Dual(-self.value, -self.tangent)

    def __abs__(self) -> "Dual":
        return Dual(np.abs(self.value), np.sign(self.value) * self.tangent)

    def __bool__(self) -> bool:
        return bool(self.value)

    def __float__(self) -> float:
        return float(self.value)


def _value(x: Any) -> Any:
    return x.value if isinstance(x, Dual) else x


def _tangent(x: Any) -> Any:
    return x.tangent if isinstance(x, Dual) else np.zeros_like(np.asarray(x))


def _power(a: Any, b: Any) -> Any:
    """Of a fixed exponent: d a^b = b a^(b - 1) da."""
    return Dual(_value(a) ** b, b * _value(a) ** (b - 1) * _tangent(a))


def _bilinear(product: Rule) -> Rule:
    """d(a b) = da b + a db."""

    def rule(a: Any, b: Any, **options: Any) -> Dual:
        value = product(_value(a), _value(b), **options)
        left, right = (product(x, y, **options) for x, y in ((_tangent(a), _value(b)), (_value(a), _tangent(b))))
        return Dual(value, left + right)

    return rule


_OPERATORS: dict[str, Rule] = {
    "add": lambda a, b: Dual(_value(a) + _value(b), _tangent(a) + _tangent(b)),
    "sub": lambda a, b: Dual(_value(a) - _value(b), _tangent(a) - _tangent(b)),
    "mul": _bilinear(operator.mul),
    "truediv": lambda a, b: Dual(v := _value(a) / _value(b), (_tangent(a) - v * _tangent(b)) / _value(b)),
    "pow": _power,
    "matmul": _bilinear(np.matmul),
}

for _name, _rule in _OPERATORS.items():
    setattr(Dual, f"__{_name}__", _rule)
    setattr(Dual, f"__r{_name}__", lambda a, b, rule=_rule: rule(b, a))
for _compare in (operator.lt, operator.le, operator.gt, operator.ge, operator.eq, operator.ne):
    setattr(Dual, f"__{_compare.__name__}__", lambda a, b, f=_compare: f(_value(a), _value(b)))


def _linear(f: Rule) -> Rule:
    """d f(x) = f(dx): what moves, picks and adds entries; of a list of arrays too."""

    def rule(x: Any, *arguments: Any, **options: Any) -> Dual:
        places = [_value(a) for a in arguments]  # indices and dtypes
        each = (lambda of: [of(a) for a in x]) if isinstance(x, list | tuple) else (lambda of: of(x))
        return Dual(*(f(each(of), *places, **options) for of in (_value, _tangent)))

    return rule


def _elementwise(f: Rule, slope: Rule) -> Rule:
    """d f(x) = f'(x) dx; the slope is given x and f(x)."""

    def rule(x: Any) -> Dual:
        value = f(_value(x))
        return Dual(value, slope(_value(x), value) * _tangent(x))

    return rule


def _where(condition: Any, a: Any, b: Any) -> Dual:
    condition = _value(condition)
    return Dual(np.where(condition, _value(a), _value(b)), np.where(condition, _tangent(a), _tangent(b)))


def _solve(a: Any, b: Any) -> Dual:
    """a x = b  =>  a dx = db - da x."""
    x = np.linalg.solve(_value(a), _value(b))
    return Dual(x, np.linalg.solve(_value(a), _tangent(b) - _tangent(a) @ x))


def _constant(f: Rule) -> Rule:
    """What makes arrays: floats have a tangent of 0, so that what is made is of this library."""

    def rule(*arguments: Any, **options: Any) -> Any:
        made = f(*map(_value, arguments), **options)
        return Dual(made, 0) if made.dtype.kind == "f" else made

    return rule


def _max(x: Any, *, axis: int = -1, keepdims: bool = False) -> Dual:
    place = np.expand_dims(np.argmax(_value(x), axis=axis), axis=axis)
    top = Dual(*(np.take_along_axis(part, place, axis=axis) for part in (_value(x), _tangent(x))))
    return top if keepdims else Dual(np.squeeze(top.value, axis=axis), np.squeeze(top.tangent, axis=axis))


_ELEMENTWISE: dict[str, Rule] = {
    "exp": lambda x, y: y,
    "expm1": lambda x, y: y + 1,
    "log": lambda x, y: 1 / x,
    "log1p": lambda x, y: 1 / (1 + x),
    "sqrt": lambda x, y: 0.5 / y,
    "tanh": lambda x, y: (1 - y) * (1 + y),
    "sin": lambda x, y: np.cos(x),
    "cos": lambda x, y: -np.sin(x),
    "sinh": lambda x, y: np.cosh(x),
    "asinh": lambda x, y: 1 / np.sqrt(1 + x * x),
    "abs": lambda x, y: np.sign(x),
    "square": lambda x, y: 2 * x,
}

_LINEAR = (
    *("reshape", "sum", "mean", "concat", "stack", "take", "take_along_axis", "cumulative_sum", "flip", "squeeze"),
    *("expand_dims", "broadcast_to", "permute_dims", "matrix_transpose", "tril", "triu", "moveaxis", "roll", "tile"),
    "astype",
)

_MADE = ("zeros", "ones", "full", "empty", "eye", "zeros_like", "ones_like", "full_like")

_RULES: dict[str, Rule] = {
    **{name: _elementwise(getattr(np, name), slope) for name, slope in _ELEMENTWISE.items()},
    **{name: _linear(getattr(np, name)) for name in _LINEAR},
    "matmul": _OPERATORS["matmul"],
    "vecdot": _bilinear(np.vecdot),
    "tensordot": _bilinear(np.tensordot),
    "where": _where,
    "maximum": lambda a, b: _where(_value(a) >= _value(b), a, b),
    "minimum": lambda a, b: _where(_value(a) <= _value(b), a, b),
    "max": _max,
    "asarray": lambda x, **options: x if isinstance(x, Dual) else np.asarray(x, **options),
    **{name: _constant(getattr(np, name)) for name in _MADE},
}


class _Linalg:
    solve = staticmethod(_solve)

    def __getattr__(self, name: str) -> Any:
        return getattr(np.linalg, name)


class _Namespace:
    """The functions with a rule; others of NumPy, which are given the values."""

    linalg = _Linalg()
    __name__ = __name__

    def __getattr__(self, name: str) -> Any:
        if name in _RULES:
            return _RULES[name]
        found = getattr(np, name)
        if isinstance(found, type) or not callable(found):
            return found
        return lambda *arguments, **options: found(*map(_value, arguments), **options)


_NAMESPACE = _Namespace()


def constants(arrays: dict[str, Any]) -> dict[str, Dual]:
    """Arrays by name as dual numbers without a tangent.

    >>> constants({"w": np.asarray([2.0])})
    {'w': Dual(array([2.]), array([0.]))}
    """
    return {name: Dual(array, 0) for name, array in arrays.items()}


def tangent(f: Callable[[Any], Any], x: Any, dx: Any) -> Any:
    """The derivative of f at x along dx, both NumPy arrays of one shape; f works on the Array API.

    >>> tangent(lambda x: x * x, np.asarray([3.0]), np.asarray([1.0]))
    array([6.])
    """
    return _tangent(f(Dual(x, dx)))
