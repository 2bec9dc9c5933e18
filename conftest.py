"""Doctests import no array library that may be missing: the backends have their own tests."""

import os

collect_ignore_glob = ["dfm_ref/backends/[a-z]*.py", "backends/*"]

# a test process for each core: more threads inside them would wait for one another
os.environ.setdefault("OMP_NUM_THREADS", "1")
