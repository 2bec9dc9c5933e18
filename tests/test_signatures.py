"""Argument order of every public function: description, model, key, arrays in flow order, keyword-only options."""

import inspect
from importlib import import_module

import pytest
from test_public_api import MODULES

ORDER = (
    ("path", "schedule", "config", "net", "optimiser", "problem", "run"),  # static descriptions
    ("source",),
    ("model", "step"),
    ("params",),
    ("key",),
    ("residuals", "logits", "probs_1", "posteriors"),
    ("x_0",),
    ("x_1",),
    ("x_t",),
    ("t", "times"),
    ("s",),
)
"""Names with a place of their own, from left to right; other names stand where they read best."""

FREE = {
    "random.threefry2x32",  # its x_0 and x_1 are the words of Salmon et al. 2011
    "nn.optim.warmup_cosine",  # its step is a number
    "nn.train.from_arrays",
    "paths.per_token",  # beside the tokens, as it reads
}

POSITIONAL_DEFAULTS = {
    "random.split": {"num"},  # as jax.random.split
    "arrays.like": {"dtype"},  # as asarray of every library
    "arrays.one_hot": {"dtype"},
    "progress.progress": {"describe"},
    "cli.main": {"arguments"},
}


def functions():
    for name in MODULES:
        module = import_module(name)
        short = name.removeprefix("dfm_ref.")
        for attribute in getattr(module, "__all__", ()):
            thing = getattr(module, attribute)
            if inspect.isfunction(thing):
                yield f"{short}.{attribute}", thing
            elif inspect.isclass(thing) and thing.__module__ == name:
                defined = {n: m for n, m in vars(thing).items() if inspect.isfunction(m) and m.__name__ == n}
                methods = {n: m for n, m in defined.items() if not n.startswith("_")}
                yield from ((f"{short}.{attribute}.{n}", m) for n, m in methods.items())


FUNCTIONS = dict(functions())


@pytest.mark.parametrize("name", FUNCTIONS)
def test_arguments_flow_from_the_description_to_the_options(name):
    if name in FREE:
        return
    place = {word: i for i, words in enumerate(ORDER) for word in words}
    parameters = inspect.signature(FUNCTIONS[name]).parameters.values()
    ranked = [p.name for p in parameters if p.name in place and p.kind is not p.KEYWORD_ONLY]
    assert ranked == sorted(ranked, key=place.__getitem__), "description, model, key, x_0, x_1, x_t, t, s"


@pytest.mark.parametrize("name", FUNCTIONS)
def test_options_are_keyword_only(name):
    parameters = inspect.signature(FUNCTIONS[name]).parameters.values()
    positional = {p.name for p in parameters if p.default is not p.empty and p.kind is not p.KEYWORD_ONLY}
    assert positional <= POSITIONAL_DEFAULTS.get(name, set())


@pytest.mark.parametrize("name", FUNCTIONS)
def test_every_argument_and_result_is_annotated_and_none_is_a_mutable_default(name):
    signature = inspect.signature(FUNCTIONS[name])
    own = [p for p in signature.parameters.values() if p.name != "self"]
    assert all(p.annotation is not p.empty for p in own) and signature.return_annotation is not signature.empty
    assert not [p.name for p in own if isinstance(p.default, list | dict | set)]


@pytest.mark.parametrize("step", ["finite_step", "euler_step"])
def test_steps_differ_in_their_law_alone(step):
    assert inspect.signature(FUNCTIONS[f"samplers.{step}"]) == inspect.signature(FUNCTIONS["samplers.finite_step"])


def test_the_exceptions_exist():
    assert {*FREE, *POSITIONAL_DEFAULTS} <= set(FUNCTIONS)
