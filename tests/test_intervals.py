"""The benchmarks' intervals over seeds cover what they say."""

import importlib.util
import pathlib

import numpy as np
import pytest

SPEC = importlib.util.spec_from_file_location(
    "prm_benchmark", pathlib.Path(__file__).parent / "benchmarks" / "prm.py"
)
prm = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(prm)


@pytest.mark.parametrize("seeds", [2, 3])
@pytest.mark.parametrize("between", [0.0, 1.0, 3.0])
def test_intervals_over_few_seeds_cover_the_mean_of_further_ones(seeds, between):
    rng, runs = np.random.default_rng(0), 2000
    means_R_S = rng.normal(0.0, between, (runs, seeds)) + rng.normal(0.0, 1.0, (runs, seeds))
    made = [[{"mean": m, "low": m - 1.96, "high": m + 1.96} for m in means_S] for means_S in means_R_S]
    found = [prm.over_seeds(found_S) for found_S in made]
    assert np.mean([one["low"] <= 0.0 <= one["high"] for one in found]) >= 0.94


def test_one_seed_has_the_interval_of_its_problems():
    found = prm.over_seeds([{"mean": 0.5, "low": 0.4, "high": 0.6}])
    assert found == {"mean": 0.5, "low": 0.4, "high": 0.6}
