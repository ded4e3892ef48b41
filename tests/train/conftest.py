"""Programs are compiled once for all tests of this room: the cache goes to a folder of the test run."""

import os

import jax
import pytest


@pytest.fixture(scope="session", autouse=True)
def compilation_cache(tmp_path_factory):
    directory = str(tmp_path_factory.mktemp("compilation_cache"))
    os.environ["JAX_COMPILATION_CACHE_DIR"] = directory  # for child processes
    os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
    jax.config.update("jax_compilation_cache_dir", directory)
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
    yield
