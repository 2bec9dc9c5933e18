"""The house: a file imports only from files to its left, and nothing heavy is imported unasked."""

import ast
import json
import subprocess
import sys
from pathlib import Path

import pytest

import dfm_ref

ROOT = Path(dfm_ref.__file__).parent
FLOORS = [
    "protocols", "arrays", "checks", "random", "schedules", "sources", "times", "couplings", "paths", "events",
    "velocities", "transitions", "guidance", "losses", "likelihoods", "redraws", "samplers", "remasking", "kinetic",
    "exact", "checkpoints", "data", "nn", "progress", "runs", "continuous", "distributed", "pages", "plots",
    "verify", "demo", "demo_continuous", "cli",
]  # fmt: skip
NN_FLOORS = (("layers",), ("mlp", "transformer", "perceptron", "field", "optim"), ("train",))
ASSEMBLERS = {"cli", "demo", "verify/targets", "verify/plugin"}
"""The files that put a run together, and may ask for a backend by name."""
MODULES = sorted(f for f in ROOT.rglob("*.py") if "backends" not in f.relative_to(ROOT).parts)
HEAVY = ("scipy.stats", "matplotlib", "torch", "jax", "cupy", "sklearn", "numba", "hypothesis", "rich")


def imports(tree, package, *, top_level=False):
    """The dotted names that a syntax tree imports, relative ones made absolute within `package`, a tuple of names."""
    nodes = tree.body if top_level else ast.walk(tree)
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else ()
            base = (*base, *(node.module or "").split(".")) if node.module else base
            yield from (".".join((*base, alias.name)) for alias in node.names)


def imported(file, **options):
    return list(imports(ast.parse(file.read_text(encoding="utf-8")), ("dfm_ref", *relative(file)[:-1]), **options))


def relative(file):
    return file.relative_to(ROOT).with_suffix("").parts


def own(names):
    """The parts behind `dfm_ref` of the names that are of this package."""
    return [name.split(".")[1:] for name in names if name.split(".")[0] == "dfm_ref" and name != "dfm_ref.__version__"]


def label(file):
    return "/".join(relative(file))


@pytest.mark.parametrize("file", MODULES, ids=label)
def test_a_file_imports_only_from_files_to_its_left(file):
    here = relative(file)[0]
    if here == "__init__":
        return  # the public names: all core files, no logic
    assert here in FLOORS, f"{here}.py has no floor: give it one in DESIGN and here"
    for parts in own(imported(file)):
        there = parts[0]
        if there == "backends":
            assert label(file) in ASSEMBLERS, f"{here} imports a backend; only {ASSEMBLERS} may"
        elif there != here:
            assert FLOORS.index(there) < FLOORS.index(here), f"{here} imports {there}, which is not to its left"


@pytest.mark.parametrize("file", [f for f in MODULES if relative(f)[0] == "nn"], ids=label)
def test_in_nn_layers_come_first_and_the_trainer_last(file):
    floor = {name: i for i, names in enumerate(NN_FLOORS) for name in names}
    here = relative(file)[1]
    for parts in own(imported(file)):
        if parts[0] == "nn" and here != "__init__":
            assert floor[parts[1]] < floor[here], f"nn/{here} imports nn/{parts[1]}, which is not to its left"


def test_the_oracle_imports_only_numpy_fractions_and_the_standard_library():
    roots = {name.split(".")[0] for name in imported(ROOT / "verify" / "oracle.py")}
    assert roots <= {"numpy", *sys.stdlib_module_names}


def test_the_initialiser_holds_no_logic():
    body = ast.parse((ROOT / "__init__.py").read_text(encoding="utf-8")).body
    assert all(isinstance(node, ast.ImportFrom | ast.Assign | ast.Expr) for node in body)


def test_importing_dfm_ref_imports_nothing_heavy():
    code = "import json, sys, dfm_ref; print(json.dumps(sorted(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = json.loads(done.stdout)
    assert not [m for m in loaded for heavy in HEAVY if m == heavy or m.startswith(f"{heavy}.")]
    assert "array_api_compat.numpy" not in loaded  # loads all corners of NumPy, which takes as long as NumPy itself
    unasked = [m for m in loaded if m.startswith(("dfm_ref.backends", "dfm_ref.nn", "dfm_ref.verify", "dfm_ref.cli"))]
    assert not unasked


@pytest.mark.parametrize("file", MODULES, ids=label)
def test_no_file_but_the_plots_imports_a_heavy_library_at_its_top(file):
    if relative(file)[0] in ("plots", "demo", "demo_continuous"):
        return  # imported on demand, by the demo command
    allowed = {"hypothesis", "rich", "scipy.stats"} if relative(file)[0] == "verify" else set()
    names = imported(file, top_level=True)
    assert not [n for n in names for h in HEAVY if h not in allowed and (n == h or n.startswith(f"{h}."))]


def test_the_package_and_the_folder_of_backends_are_one():
    """The committed symlink, which a wheel replaces by a folder."""
    top = ROOT.parent / "backends"
    if not top.is_dir():
        pytest.skip("an installed package has no top-level folder")
    assert (ROOT / "backends").resolve() == top.resolve()


@pytest.mark.parametrize("file", sorted((ROOT / "backends").glob("*.py")), ids=lambda f: f.stem)
def test_a_backend_imports_its_library_and_no_other_backend(file):
    libraries = {"numpy", "torch", "jax", "cupy", "numba", "array_api_strict"} - {"numpy"}
    own_library = {"strict": "array_api_strict", "compiled": "numba"}.get(file.stem, file.stem)
    tree = ast.parse(file.read_text(encoding="utf-8"))
    roots = {name.split(".")[0] for name in imports(tree, ("dfm_ref", "backends"))}
    assert roots & libraries <= {own_library}
