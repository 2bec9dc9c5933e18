"""Property tests draw the same examples in every run; tests on CuPy have the mark `gpu`."""

import pytest
from hypothesis import settings

settings.register_profile("laws", derandomize=True, deadline=None)
settings.load_profile("laws")


def pytest_collection_modifyitems(items):
    for item in (i for i in items if hasattr(i, "callspec")):
        if "cupy" in (v for v in item.callspec.params.values() if isinstance(v, str)):
            item.add_marker(pytest.mark.gpu)
