"""What is equal where search stands beside sampling."""

import asyncio
import dataclasses

import pytest
from etils import epath
from test_choice_arms import comparison

from o1jax.records import Rollout
from o1jax.store import read_shards


def generated(plain):
    return asyncio.run(plain.generate())


def tokens(groups):
    return [[len(rollout.token_ids) for rollout in group] for group in groups]


def test_best_of_n_takes_the_tokens_that_search_took_in_all():
    plain, _ = comparison(8)
    got = generated(plain)
    for groups in (got.pseudocode_P_G, got.direct_P_G):
        lengths = tokens(groups)
        assert abs(sum(map(sum, lengths)) - got.budget) <= max(map(max, lengths)) / 2
        counts = sorted(map(len, lengths))
        assert counts[0] >= 1 and counts[-1] - counts[0] <= 1  # not by what search took of each problem


def test_best_of_n_ends_at_the_first_pass_where_search_does():
    plain, _ = comparison(8)
    first = dataclasses.replace(plain, search=dataclasses.replace(plain.search, stop_after_passes=1))
    got = generated(first)
    assert sum(tree.solved for tree in got.trees) > 0
    rewards = [[rollout.reward for rollout in group] for group in got.pseudocode_P_G]
    assert all(1.0 not in group[:-1] for group in rewards) and any(group[-1] for group in rewards)
    unsolved = [len(group) for group in rewards if not group[-1]]
    assert not unsolved or min(unsolved) >= max(map(len, rewards)) - 1
    figures = asyncio.run(first.figures(got))["search"]
    assert figures["best_of_n"]["generated_tokens"] == sum(map(sum, tokens(got.pseudocode_P_G)))


def test_a_killed_evaluation_goes_on_from_its_rounds():
    whole, _ = comparison(8)
    expected = generated(whole)
    killed, _ = comparison(8)
    engine, left = killed.workers.engine, len(whole.workers.engine.requests) - 9
    generate = engine.generate

    async def dies(requests):
        if len(engine.requests) >= left:
            raise RuntimeError("killed")
        return await generate(requests)

    engine.generate = dies
    with pytest.raises(RuntimeError, match="killed"):
        generated(killed)
    assert (killed.store.out / "best_of_n/direct.rounds/0.parquet").exists()
    engine.generate = generate
    assert generated(killed) == expected
    place = epath.Path(killed.store.out) / "best_of_n"
    assert sorted(path.name for path in place.iterdir()) == ["direct.parquet", "pseudocode.parquet"]
    assert len(read_shards(place, Rollout)) == sum(map(len, [*expected.pseudocode_P_G, *expected.direct_P_G]))
