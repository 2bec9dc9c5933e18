"""Public names: `__all__` is complete and sorted, everything in it is documented, and the documentation runs."""

import inspect
import pkgutil
import re
import tomllib
from dataclasses import is_dataclass
from importlib import import_module, metadata
from importlib.util import find_spec
from pathlib import Path

import pytest

import dfm_ref

ROOT = Path(dfm_ref.__file__).parent
OPTIONAL = {
    "dfm_ref.plots": ("matplotlib",),
    "dfm_ref.demo": ("matplotlib", "sklearn"),
    "dfm_ref.demo_continuous": ("matplotlib", "sklearn"),
}

COMMANDS = {"dfm_ref.cli": {"demo", "train", "sample", "evaluate", "verify", "vectors", "list_backends"}}
"""Public by their docstrings, which `--help` prints, but called through `main` alone."""

NO_DOCTEST = {
    "backends.names": "differs from machine to machine",
    "checkpoints.load": "beside `save`, which shows both",
    "cli.main": "the README shows it",
    "continuous.couplings.sinkhorn": "needs POT: test_continuous_couplings",
    "couplings.entropic": "needs POT: test_couplings",
    "couplings.sinkhorn": "needs POT: test_couplings",
    "demo.leave": "writes files: test_cli",
    "demo.run": "takes minutes",
    "demo_continuous.run": "takes minutes",
    "plots.to_png": "bytes",
    "nn.layers.join_heads": "undoes split_heads: test_layers",
    "nn.layers.split_heads": "undone by join_heads: test_layers",
    "nn.train.from_arrays": "needs a state: test_train",
    "nn.train.init": "needs a state: test_train",
    "nn.train.network": "a look-up",
    "nn.train.path": "a look-up",
    "nn.train.source": "a look-up",
    "nn.train.to_arrays": "needs a state: test_train",
    "nn.train.train": "needs a state: test_train",
    "nn.train.update": "needs a state: test_train",
    "verify.adapters.jax_function.wrap": "needs JAX: test_adapters",
    "verify.adapters.torch_module.array": "needs PyTorch: test_adapters",
    "verify.adapters.torch_module.tensor": "needs PyTorch: test_verify_continuous",
    "verify.adapters.torch_module.wrap": "needs PyTorch: test_adapters",
    "verify.oracle.conditional": "shown by `marginal`",
    "verify.oracle.given_pair": "shown by `posteriors`",
    "verify.oracle.kolmogorov_residual": "shown by test_oracle",
    "verify.oracle.marginal_dot": "shown by `marginal`",
    "verify.plugin.pytest_addoption": "called by pytest: test_plugin",
    "verify.plugin.pytest_collection_modifyitems": "called by pytest: test_plugin",
    "verify.plugin.pytest_generate_tests": "called by pytest: test_plugin",
    "verify.reference.document": "shown by `vectors.write`, which takes seconds",
}
"""Functions that show no example, each with its reason; backward passes show a law instead, and `runs` needs files."""


def modules():
    for info in pkgutil.walk_packages(dfm_ref.__path__, "dfm_ref."):
        inside_backends = info.name.startswith("dfm_ref.backends.")
        if not inside_backends and all(find_spec(library) for library in OPTIONAL.get(info.name, ())):
            yield info.name


MODULES = sorted(modules())
WITH_NAMES = [name for name in MODULES if (ROOT / Path(*name.split(".")[1:])).with_suffix(".py").exists()]


def public(module):
    """The functions and classes that a module defines under a public name."""
    things = vars(module).items()
    return {n for n, x in things if not n.startswith("_") and callable(x) and home(x) == module.__name__}


def home(thing):
    return getattr(thing, "__module__", None) if inspect.isclass(thing) or inspect.isfunction(thing) else None


def isort_order(name):
    return 0 if name.isupper() else 1 if name[0].isupper() else 2, name


def functions():
    for name in MODULES:
        module = import_module(name)
        for attribute in getattr(module, "__all__", ()):
            if inspect.isfunction(getattr(module, attribute)):
                yield f"{name.removeprefix('dfm_ref.')}.{attribute}", getattr(module, attribute)


FUNCTIONS = dict(functions())


@pytest.mark.parametrize("name", ["dfm_ref", "dfm_ref.backends", *WITH_NAMES])
def test_all_is_complete_and_sorted(name):
    module = import_module(name)
    names = list(module.__all__)
    assert names == sorted(names, key=isort_order) and len(set(names)) == len(names)
    assert all(hasattr(module, n) for n in names), "a name that is not there"
    assert public(module) - COMMANDS.get(name, set()) <= set(names), "public, and not in __all__"
    assert not [n for n in names if n.startswith("_") and n != "__version__"]


def test_the_package_exports_its_core_files_and_nothing_else():
    core = {f.stem for f in ROOT.glob("*.py")} - {"__init__"}
    unasked = {"checkpoints", "cli", "data", "demo", "demo_continuous", "pages", "plots", "progress", "runs"}
    assert set(dfm_ref.__all__) == {"__version__"} | (core - unasked)


@pytest.mark.parametrize("name", MODULES)
def test_modules_functions_classes_and_methods_are_documented(name):
    module = import_module(name)
    if (ROOT / Path(*name.split(".")[1:])).is_dir() and not module.__doc__:
        assert not public(module)  # an empty __init__
        return
    assert module.__doc__
    for attribute in public(module):
        thing = getattr(module, attribute)
        assert inspect.getdoc(thing), attribute
        generated = is_dataclass(thing) and thing.__doc__.startswith(f"{attribute}(")
        assert not generated and not thing.__doc__.startswith("Create and return a new object"), attribute


@pytest.mark.parametrize("name", FUNCTIONS)
def test_every_function_has_an_example_that_runs(name):
    excused = name in NO_DOCTEST or name.endswith("_backward") or name.startswith("runs.")
    assert excused or ">>>" in FUNCTIONS[name].__doc__


def test_the_excuses_are_needed():
    assert not [n for n in NO_DOCTEST if n in FUNCTIONS and ">>>" in FUNCTIONS[n].__doc__]


@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_docstring_begins_with_one_sentence(name):
    first = inspect.getdoc(FUNCTIONS[name]).split("\n\n")[0]
    assert re.search(r"[.:;]$", first.strip()), first


def test_versions_agree():
    assert metadata.version("dfm_ref") == dfm_ref.__version__
    project = ROOT.parent / "pyproject.toml"
    if project.exists():
        assert tomllib.loads(project.read_text(encoding="utf-8"))["project"]["version"] == dfm_ref.__version__


def test_every_package_is_installed():
    project = ROOT.parent / "pyproject.toml"
    if not project.exists():
        pytest.skip("an installed package carries no pyproject.toml")
    tools = tomllib.loads(project.read_text(encoding="utf-8"))["tool"]["setuptools"]
    folders = {".".join(("dfm_ref", *f.parent.relative_to(ROOT).parts)) for f in ROOT.rglob("__init__.py")}
    assert set(tools["packages"]) == folders | {"dfm_ref", "dfm_ref.backends"}
    if (ROOT / "py.typed").exists():
        assert "py.typed" in str(tools.get("package-data", ""))


def test_the_command_is_installed():
    [script] = [e for e in metadata.entry_points(group="console_scripts") if e.name == "dfm-ref"]
    assert script.value == "dfm_ref.cli:main"
