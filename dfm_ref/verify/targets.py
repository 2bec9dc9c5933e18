"""What `verify` is pointed at: a built-in name, or module:attribute; the builds behind it, and their suite."""

import contextlib
import importlib
import io
import os
import sys
from collections.abc import Callable
from typing import Any, NamedTuple

from .. import backends
from ..protocols import Backend
from .laws import Law
from .probe import TimedOut, within
from .suites import CONTINUOUS, DISCRETE, SUITES, Suite, suite_of

__all__ = ["Package", "Target", "TargetError", "resolve"]


class TargetError(ValueError):
    """A target that cannot be imported, or is nothing that builds: one line."""


class Target(NamedTuple):
    """A build function with a name, and the Python that defines `build` in the lines of a finding."""

    name: str
    build: Callable[[Any], Any]
    setup: str
    limit: float = 20.0
    """Seconds that a call may take, where the user says nothing."""
    suite: Suite = DISCRETE
    differs: str = ""
    """The one method in which it differs from the target before it; empty where it may in any."""

    def laws(self, chosen: tuple[Law, ...]) -> tuple[Law, ...]:
        """Those of the laws that are not already known from the target before it."""
        return tuple(law for law in chosen if not self.differs or self.differs in law.needs)


class Package(NamedTuple):
    """A package of which variants are tried: what it needs, and the module of the adapter, which has them by name."""

    needs: tuple[str, ...]
    install: str
    adapter: str
    suite: Suite
    differs: str = ""


_ADAPTERS = "dfm_ref.verify.adapters"
_PACKAGES = {
    ("flow_matching", "discrete"): Package(
        ("torch", "flow_matching"),
        "pip install flow_matching torch tqdm",
        f"{_ADAPTERS}.flow_matching",
        DISCRETE,
        differs="sample",
    ),
    ("flow_matching", "continuous"): Package(
        ("torch", "torchdiffeq", "flow_matching"),
        "pip install flow_matching torch torchdiffeq",
        f"{_ADAPTERS}.flow_matching_ode",
        CONTINUOUS,
    ),
    ("zuko", "continuous"): Package(("torch", "zuko"), "pip install zuko torch", f"{_ADAPTERS}.zuko", CONTINUOUS),
    ("torchcfm", "continuous"): Package(
        ("torch", "ot", "torchcfm.conditional_flow_matching"),
        "pip install --no-deps torchcfm, beside torch and POT",
        f"{_ADAPTERS}.torchcfm",
        CONTINUOUS,
    ),
}
"""By name and suite; the first suite of a name is the one meant where none is named."""


def resolve(target: str, *, backend: str = "numpy", suite: str = "", limit: float = 60.0) -> list[Target]:
    """The builds of "dfm_ref[:BACKEND]", of "flow_matching", "zuko" or "torchcfm[:VARIANT]", or of "module:attribute".

    Without an attribute it is `build`. A module is looked for in the working directory too. Without a suite, that of
    a module is seen from what it builds. TargetError where the import fails or takes longer than `limit` seconds.

    >>> [one.name for one in resolve("dfm_ref:numpy")]
    ['dfm_ref:numpy']
    """
    if suite and suite not in SUITES:
        raise TargetError(f"suite: expected one of {', '.join(SUITES)}, got {suite}")
    package, _, attribute = target.partition(":")
    if package == "dfm_ref":
        return _ours(attribute or backend, suite)
    if known := [of for name, of in _PACKAGES if name == package]:
        if suite and suite not in known:
            raise TargetError(f"{package}: expected the suite {', '.join(known)}, got {suite}")
        return _variants(package, attribute, _PACKAGES[package, suite or known[0]])
    found = _imported(package, attribute or "build", limit)
    if not callable(found):
        raise TargetError(f"{target}: expected a function build(case), got {type(found).__name__}")
    head, _, rest = (attribute or "build").partition(".")
    setup = f"from {package} import {head}"
    if rest:
        setup += f"\nbuild = {attribute}"
    elif head != "build":
        setup += " as build"
    return [Target(target, found, setup, suite=SUITES[suite] if suite else suite_of(found))]


def _ours(name: str, suite: str) -> list[Target]:
    loaded: Backend = backends.load(name)
    # JAX compiles every operation anew for every number of events
    limit, imports = 120.0 if name == "jax" else 20.0, "from dfm_ref import backends"
    if suite == "continuous":
        from .adapters import ours_continuous as continuous

        setup = f"{imports}\nfrom dfm_ref.verify.adapters import ours_continuous\nbuild = ours_continuous."
        setup += f"{{}}(backends.load({name!r}))"
        return [
            Target(f"dfm_ref:{name}", continuous.on(loaded), setup.format("on"), limit, CONTINUOUS),
            Target(
                f"dfm_ref:{name}, solved", continuous.solved_on(loaded), setup.format("solved_on"), limit, CONTINUOUS
            ),
        ]
    from .adapters import ours

    setup = f"{imports}\nfrom dfm_ref.verify.adapters import ours\nbuild = ours.on(backends.load({name!r}))"
    return [Target(f"dfm_ref:{name}", ours.on(loaded), setup, limit)]


def _variants(name: str, option: str, package: Package) -> list[Target]:
    for needed in package.needs:
        try:
            importlib.import_module(needed)
        except Exception as error:
            why = " ".join(str(error).split())
            raise TargetError(f"{name}: {why}. Install it with: {package.install}") from None
    variants = importlib.import_module(package.adapter).VARIANTS
    if option and option not in variants:
        raise TargetError(f"{name}: expected an option among {', '.join(variants)}, got {option}")
    where = f"from {package.adapter} import VARIANTS"
    chosen = [variant for variant in variants if option in ("", variant)]
    return [
        Target(
            f"{name}:{variant}",
            variants[variant],
            f"{where}\nbuild = VARIANTS[{variant!r}]",
            suite=package.suite,
            differs=package.differs if variant != chosen[0] else "",
        )
        for variant in chosen
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
