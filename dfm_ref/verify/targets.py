"""What `verify` is pointed at: a built-in name, or module:attribute, and the builds that stand behind it."""

import contextlib
import importlib
import io
import os
import sys
from collections.abc import Callable
from typing import Any, NamedTuple

from .. import backends
from ..protocols import Backend
from .cases import Case
from .probe import TimedOut, within

__all__ = ["Target", "TargetError", "resolve"]


class TargetError(ValueError):
    """A target that cannot be imported, or is nothing that builds: one line."""


class Target(NamedTuple):
    """A build function with a name, and the Python that defines `build` in the lines of a finding."""

    name: str
    build: Callable[[Case], Any]
    setup: str
    limit: float = 20.0
    """Seconds that a call may take, where the user says nothing."""


def resolve(target: str, *, backend: str = "numpy", limit: float = 60.0) -> list[Target]:
    """The builds of "dfm_ref", "dfm_ref:BACKEND", "flow_matching", "flow_matching:OPTION", or "module:attribute".

    Without an attribute it is `build`. A module is looked for in the working directory too. TargetError where the
    import fails or takes longer than `limit` seconds.

    >>> [one.name for one in resolve("dfm_ref:numpy")]
    ['dfm_ref:numpy']
    """
    package, _, attribute = target.partition(":")
    if package == "dfm_ref":
        return [_ours(attribute or backend)]
    if package == "flow_matching":
        return _flow_matching(attribute)
    found = _imported(package, attribute or "build", limit)
    if not callable(found):
        raise TargetError(f"{target}: expected a function build(case), got {type(found).__name__}")
    head, _, rest = (attribute or "build").partition(".")
    setup = f"from {package} import {head}"
    if rest:
        setup += f"\nbuild = {attribute}"
    elif head != "build":
        setup += " as build"
    return [Target(target, found, setup)]


def _ours(name: str) -> Target:
    from .adapters import ours

    loaded: Backend = backends.load(name)
    imports = "from dfm_ref import backends\nfrom dfm_ref.verify.adapters import ours"
    setup = f"{imports}\nbuild = ours.on(backends.load({name!r}))"
    # JAX compiles every operation anew for every number of events
    return Target(f"dfm_ref:{name}", ours.on(loaded), setup, limit=120.0 if name == "jax" else 20.0)


def _flow_matching(option: str) -> list[Target]:
    for needed in ("torch", "flow_matching"):
        try:
            importlib.import_module(needed)
        except Exception as error:
            why = " ".join(str(error).split())
            install = "Install it with: pip install flow_matching torch tqdm"
            raise TargetError(f"flow_matching: {why}. {install}") from None
    from .adapters import flow_matching

    variants = flow_matching.VARIANTS
    if option and option not in variants:
        raise TargetError(f"flow_matching: expected an option among {', '.join(variants)}, got {option}")
    where = "from dfm_ref.verify.adapters.flow_matching import VARIANTS"
    return [
        Target(f"flow_matching:{name}", build, f"{where}\nbuild = VARIANTS[{name!r}]")
        for name, build in variants.items()
        if option in ("", name)
    ]


def _imported(module: str, attribute: str, limit: float) -> Any:
    if os.getcwd() not in sys.path:  # noqa: PTH109  # as python -m does
        sys.path.insert(0, os.getcwd())  # noqa: PTH109
    silence = io.StringIO()
    try:
        with contextlib.redirect_stdout(silence), contextlib.redirect_stderr(silence), within(limit):
            found = importlib.import_module(module)
            for name in attribute.split("."):
                found = getattr(found, name)
    except KeyboardInterrupt:
        raise
    except TimedOut:
        raise TargetError(f"{module}: the import took longer than {limit:g} s") from None
    except BaseException as error:  # sys.exit() in a module too
        why = " ".join(str(error).split())
        raise TargetError(f"{module}:{attribute}: cannot be imported: {type(error).__name__}: {why}") from None
    return found
