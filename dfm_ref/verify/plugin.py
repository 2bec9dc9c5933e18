"""The pytest plugin: `pytest --dfm-adapter my_package:build` gives one test a law, beside the user's own tests.

Options: --dfm-adapter TARGET and --dfm-suite KIND, as for `dfm-ref verify`; --dfm-laws ID,ID; --dfm-quick;
--dfm-seed N. Fixtures: `dfm_case`, every discrete case in turn; `dfm_oracle`, the module of exact laws; `dfm_adapter`,
what the target builds for `dfm_case`. Nothing but pytest is imported before the option is given.
"""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from .kit import Result

__all__ = [
    "LawItem",
    "Laws",
    "dfm_adapter",
    "dfm_case",
    "dfm_oracle",
    "pytest_addoption",
    "pytest_collection_modifyitems",
    "pytest_generate_tests",
]


def pytest_addoption(parser: pytest.Parser) -> None:
    """Adds the options, in a group of their own."""
    group = parser.getgroup("dfm_ref", "laws of discrete flow matching")
    group.addoption("--dfm-adapter", metavar="TARGET", help="one test a law on module:attribute, dfm_ref:BACKEND, ...")
    group.addoption("--dfm-suite", choices=("discrete", "continuous"), default="", help="what kind it is")
    group.addoption("--dfm-laws", metavar="ID,ID", default="", help="these laws only")
    group.addoption("--dfm-quick", action="store_true", help="in ten seconds in all, with less power")
    group.addoption("--dfm-seed", type=int, default=0, help="the seed of the laws of samples (default: 0)")


@pytest.hookimpl(tryfirst=True)  # before -k and --deselect choose
def pytest_collection_modifyitems(session: pytest.Session, config: pytest.Config, items: list[pytest.Item]) -> None:
    """Adds a test for every law, where an adapter is named."""
    if target := config.getoption("--dfm-adapter"):
        items += Laws.from_parent(session, name="dfm_ref", target=target).collect()


class Laws(pytest.Collector):
    """The laws as tests of one target; they share a run, so that a law that is broken is known to those after it."""

    def __init__(self, *, target: str, **options: Any) -> None:
        super().__init__(**options)
        self.target = target

    def collect(self) -> list[pytest.Item]:
        """A test a law for each build of the target; UsageError where it cannot be imported."""
        from .. import backends
        from . import targets

        ids = self.config.getoption("--dfm-laws")
        found: list[pytest.Item] = []
        try:
            builds = targets.resolve(self.target, suite=self.config.getoption("--dfm-suite"))
            suite = builds[0].suite
            chosen = tuple(map(suite.law, ids.split(","))) if ids else suite.laws
        except (ValueError, backends.BackendError) as error:
            raise pytest.UsageError(f"--dfm-adapter: {error}") from None
        for target in builds:
            some = target.laws(chosen)
            run = _Run(target, some, self.config)
            names = [law.id if len(builds) == 1 else f"{target.name}-{law.id}" for law in some]
            found += [
                LawItem.from_parent(self, name=f"law[{name}]", law=law, run=run)
                for name, law in zip(names, some, strict=True)
            ]
        return found


class _Run:
    """A verification whose results come as they are asked for."""

    def __init__(self, target: Any, laws: tuple[Any, ...], config: pytest.Config) -> None:
        self.target, self.laws, self.config = target, laws, config
        self.known: dict[str, Result] = {}
        self.results: Iterator[Result] | None = None

    def result(self, id: str) -> Any:
        """The result of a law; those before it are tried first."""
        from . import kit

        if self.results is None:
            quick, seed = self.config.getoption("--dfm-quick"), self.config.getoption("--dfm-seed")
            options: dict[str, Any] = {"suite": self.target.suite, "laws": self.laws, "quick": quick, "seed": seed}
            self.results = kit.results(self.target.build, setup=self.target.setup, **options)
        while id not in self.known:
            result = next(self.results)
            self.known[result.law.id] = result
        return self.known[id]


class LawItem(pytest.Item):
    """One law as a test: it fails where the law is broken, and is skipped where it was not checked."""

    def __init__(self, *, law: Any, run: Any, **options: Any) -> None:
        super().__init__(**options)
        self.law, self.run = law, run

    def runtest(self) -> None:
        """Tries the law."""
        from .kit import Unusable
        from .report import told

        try:
            result = self.run.result(self.law.id)
        except Unusable as error:
            pytest.fail(f"{self.run.target.name}: no law could be tried: {error}", pytrace=False)
        if result.status == "broken":
            pytest.fail("\n".join(told(result)), pytrace=False)
        if result.status == "unchecked":
            pytest.skip(result.reason)

    def reportinfo(self) -> tuple[Any, None, str]:
        """Where the test is said to be: the law has no file of the user's."""
        return self.path, None, f"dfm_ref {self.run.target.name} {self.law.id}"


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Gives a test that asks for `dfm_case` every schedule with every source."""
    if "dfm_case" in metafunc.fixturenames:
        from .laws.law import each_case

        cases = each_case((2, 2))
        ids = [f"{case.schedule}-{case.source}" for case in cases]
        metafunc.parametrize("dfm_case", cases, ids=ids, indirect=True)


@pytest.fixture
def dfm_case(request: pytest.FixtureRequest) -> Any:
    """A `dfm_ref.verify.Case`: two tokens of two values, each schedule and each source in turn."""
    return request.param


@pytest.fixture(scope="session")
def dfm_oracle() -> Any:
    """The module `dfm_ref.verify.oracle`: exact laws on all states, in float64 and in fractions."""
    from . import oracle

    return oracle


@pytest.fixture
def dfm_adapter(request: pytest.FixtureRequest, dfm_case: Any) -> Any:
    """What the build of --dfm-adapter gives for `dfm_case`; skipped where it covers no such case, or none is named."""
    from . import targets

    target = request.config.getoption("--dfm-adapter")
    if not target:
        pytest.skip("no --dfm-adapter")
    try:
        return targets.resolve(target)[0].build(dfm_case)
    except NotImplementedError as error:
        pytest.skip(f"not covered: {error}")
