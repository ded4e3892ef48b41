"""XLA's programs are kept in .jax_cache, for all tests, their child processes and the next run.

They are found by their content, so no change of the code meets an old one; `make clean` removes them.
"""

import os
import pathlib

CACHE = pathlib.Path(__file__).parents[1] / ".jax_cache"

os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(CACHE))  # read where jax is imported
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
