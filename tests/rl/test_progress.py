"""The watchers and flags of an RL run."""

import numpy as np

from o1jax.rl import progress


def rows(n=60, **columns):
    """n rows, `columns` over what a healthy run has."""
    rng = np.random.default_rng(0)
    base = {"alpha": 0.5, "entropy": 1.0, "staleness": 0, "sampler_difference": 1e-4}
    base |= {"process": 0.5 + 0.02 * rng.normal(size=n), "outcome": 0.3 + 0.05 * rng.normal(size=n)}
    values = {name: np.broadcast_to(value, n) for name, value in (base | columns).items()}
    return [{name: float(column[i]) for name, column in values.items()} for i in range(n)]


RISING = np.linspace(0.3, 0.6, 60) + 0.05 * np.random.default_rng(1).normal(size=60)


def test_a_healthy_run_has_no_flag():
    assert not any(progress.flags(rows()).values())
    assert not any(progress.flags(rows(process=RISING, outcome=RISING)).values())
    assert not any(progress.flags([]).values())


def test_scores_that_rise_alone_are_reward_hacking_where_they_count():
    assert progress.flags(rows(process=RISING)) == {
        "reward_hacking": True,
        "entropy_collapse": False,
        "sampler_mismatch": False,
    }
    assert progress.flags(rows(process=RISING, outcome=-RISING))["reward_hacking"]
    assert not progress.flags(rows(process=RISING, alpha=1.0))["reward_hacking"]
    assert not progress.flags(rows(process=RISING)[:5])["reward_hacking"]


def test_entropy_that_falls_below_a_fifth_has_collapsed():
    assert progress.flags(rows(entropy=np.linspace(1.0, 0.1, 60)))["entropy_collapse"]
    assert not progress.flags(rows(entropy=np.linspace(1.0, 0.3, 60)))["entropy_collapse"]


def test_a_sampler_that_is_not_the_trainer_is_told_but_a_stale_one_is_meant():
    assert progress.flags(rows(sampler_difference=0.02))["sampler_mismatch"]
    assert not progress.flags(rows(sampler_difference=0.02, staleness=1))["sampler_mismatch"]


def test_rows_without_a_signal_have_no_entropy():
    kept = rows(entropy=np.linspace(1.0, 0.1, 60))
    for row in kept[::3]:
        del row["entropy"], row["sampler_difference"]
    assert progress.flags(kept)["entropy_collapse"]


def test_ends_are_the_means_of_the_first_and_the_last_tenth():
    assert progress.ends(np.arange(20.0)) == (0.5, 18.5)
    assert progress.ends(np.arange(3.0)) == (0.0, 2.0) and progress.ends(np.array([])) == (None, None)


def test_watchers_are_the_ends_of_what_was_seen():
    kept = rows(20, entropy=np.arange(20.0), steps=3.0)
    del kept[0]["entropy"]
    assert progress.watch(kept) == {
        "entropy": {"first": 1.0, "last": 19.0},
        "sampler_difference": {"first": 1e-4, "last": 1e-4},
        "steps": {"first": 3.0, "last": 3.0},
    }
    assert progress.watch([]) == {}
