"""Which problems an update plays."""

import collections
from itertools import starmap

import pytest
from etils import epath

from o1jax.records import InputError, Problem, Rollout
from o1jax.rl import draw
from o1jax.rl.settings import Settings
from o1jax.search import posterior
from o1jax.stages import manifest
from o1jax.store import write_records

PROBLEMS = [Problem(id=f"p{i}", question="", form="stdin") for i in range(10)]


def rollout(problem_id, reward):
    tokens = {"token_ids": (7,), "log_probs": (-1.0,), "is_policy_token": (True,), "finish_reason": "eos"}
    made_by = {
        "temperature": 1.0,
        "policy_version": 0,
        "prompt": "pseudocode",
        "program": "",
        "reward": reward,
    }
    return Rollout(id="", group_id="", problem_id=problem_id, prompt_ids=(5,), **tokens, **made_by)


def test_uniform_plays_every_problem_once_an_epoch_in_another_order_each_time():
    epochs = [
        [p.id for t in range(5 * e, 5 * e + 5) for p in draw.uniform(PROBLEMS, 2, 0, t)] for e in (0, 1)
    ]
    assert sorted(epochs[0]) == sorted(epochs[1]) == sorted(p.id for p in PROBLEMS)
    assert epochs[0] != epochs[1]


def test_an_update_never_plays_a_problem_twice():
    for t in range(20):
        assert len({p.id for p in draw.uniform(PROBLEMS, 4, 0, t)}) == 4
        assert len({p.id for p in draw.by_difficulty(PROBLEMS, 4, 0, t, {})}) == 4


def test_draws_are_functions_of_seed_and_update():
    assert draw.uniform(PROBLEMS, 3, 1, 7) == draw.uniform(PROBLEMS, 3, 1, 7)
    draws = [draw.by_difficulty(PROBLEMS, 3, seed, 7, {}) for seed in (0, 0, 1)]
    assert draws[0] == draws[1] != draws[2]


def test_what_stages_before_the_run_found_counts_in_its_draws(tmp_path):
    def found(name, rewards):
        place = epath.Path(tmp_path) / name
        write_records(place / "rollouts" / "rollouts.parquet", Rollout, [*starmap(rollout, rewards)])
        manifest.finish(place, manifest.StageSpec("sample", {}, 0, {}), manifest.StageResult({}, {}))
        return place

    inputs = {"scout": found("new", [("p1", 1.0)]), "found_0": found("old", [("p1", 0.0), ("p2", 1.0)])}
    even, odd = (Settings(updates=1, problems_per_update=3, draw=d) for d in ("uniform", "by_difficulty"))
    counts = draw.found_counts(odd, inputs)
    assert counts == {"p1": (1.5, 1.0), "p2": (0.5, 0.5)}  # the newest counts most
    assert draw.found_counts(even, {"found_0": inputs["found_0"]}) == {}  # which is replayed
    with pytest.raises(InputError, match="policy_rl.draw: saw 'uniform' with an input scout"):
        draw.found_counts(even, inputs)
    drawn = draw.of_update(PROBLEMS, odd, 0, 7, {"p3": (8, 8)}, counts)
    both = {"history": {"p3": (8, 8)}, "found": counts, "group": odd.sample.n}
    assert drawn == draw.by_difficulty(PROBLEMS, 3, 0, 7, **both)
    assert draw.of_update(PROBLEMS, even, 0, 7, {}, {}) == draw.uniform(PROBLEMS, 3, 0, 7)


def test_problems_whose_answers_are_likely_to_be_mixed_are_drawn_more_often():
    history = {p.id: (98, 98 if i < 4 else 0 if i < 8 else 49) for i, p in enumerate(PROBLEMS)}
    counts = {id: tuple(map(float, pair)) for id, pair in history.items()}
    mixed = [belief.p_mixed for belief in posterior.beliefs(PROBLEMS, counts, 8)]
    assert max(mixed[:8]) < 0.05 and min(mixed[8:]) > 0.95
    for earlier in ({"history": history}, {"history": {}, "found": history}):
        drawn = collections.Counter(
            p.id for t in range(400) for p in draw.by_difficulty(PROBLEMS, 1, 0, t, **earlier)
        )
        expected = mixed[8] ** 3 / (2 * mixed[8] ** 3 + 8 * draw.LEAST)
        assert drawn["p8"] / 400 == pytest.approx(expected, abs=0.08)
        assert sum(drawn[p.id] for p in PROBLEMS[:8])  # now and then
