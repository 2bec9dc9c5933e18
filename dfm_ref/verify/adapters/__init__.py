"""Adapters that ship: `build(case) -> object` for this library, for packages, and for codes on other array libraries.

None imports its library before it is asked to build.
"""

__all__ = ["BUILT_IN"]

BUILT_IN = {
    "dfm_ref": "dfm_ref.verify.adapters.ours:on",
    "flow_matching": "dfm_ref.verify.adapters.flow_matching:build",
}
"""Where the adapter of a package is, "module:attribute"; that of dfm_ref is `on` of a backend."""
