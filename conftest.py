"""Doctests import no array library that may be missing: the backends have their own tests."""

collect_ignore_glob = ["dfm_ref/backends/[a-z]*.py", "backends/*"]
