"""The pool's bookkeeping: sharing, holding, eviction from the end of a chain, refusal when full."""

import pytest

from o1jax.engine.jax_engine.prefill import PrefixCache


def computed(cache: PrefixCache, ids, keep: bool = True):
    chunks = cache.acquire(ids, keep)
    for chunk in chunks:
        chunk.ready = True
    return chunks


def test_a_common_start_is_shared_and_a_different_start_is_not():
    cache = PrefixCache(8, chunk_size=2)
    first = computed(cache, [1, 2, 3, 4, 5])
    second = cache.acquire([1, 2, 3, 4, 6, 7], keep=True)
    assert second[:2] == first[:2] and second[2] is not first[2]
    other = cache.acquire([9, 2, 3, 4], keep=True)
    assert other[1] is not first[1]  # the same tokens after another start
    assert (cache.hits, cache.misses) == (2, 6)


def test_chunks_that_are_held_are_never_evicted():
    cache = PrefixCache(3, chunk_size=2)
    held = computed(cache, [1, 2, 3, 4])
    assert cache.acquire([5, 6, 7, 8], keep=True) is None
    assert all(chunk.holders == 1 for chunk in held)
    cache.release(held)
    assert len(cache.acquire([5, 6, 7, 8], keep=True)) == 2 and cache.evictions == 1


def test_a_chain_is_evicted_from_its_end():
    cache = PrefixCache(3, chunk_size=1)
    cache.release(computed(cache, [1, 2, 3]))
    cache.release(computed(cache, [9]))
    assert [chunk.ready for chunk in cache.acquire([1, 2], keep=True)] == [True, True]


def test_least_recently_used_goes_first():
    cache = PrefixCache(2, chunk_size=1)
    cache.release(computed(cache, [1]))
    cache.release(computed(cache, [2]))
    cache.release(computed(cache, [1]))
    cache.release(computed(cache, [3]))
    assert cache.acquire([1], keep=True)[0].ready and not cache.acquire([2], keep=True)[0].ready


def test_what_is_not_to_be_kept_or_was_not_computed_goes_at_once():
    cache = PrefixCache(2, chunk_size=1)
    cache.release(computed(cache, [1], keep=False))
    cache.release(cache.acquire([2], keep=True))
    assert not cache.acquire([1], keep=True)[0].ready and not cache.acquire([2], keep=True)[0].ready
    assert cache.evictions == 0


def test_one_holder_who_wants_it_kept_is_enough():
    cache = PrefixCache(2, chunk_size=1)
    both = computed(cache, [1], keep=False) + cache.acquire([1], keep=True)
    cache.release(both[:1])
    cache.release(both[1:])
    assert cache.acquire([1], keep=False)[0].ready


def test_clear_refuses_while_chunks_are_held():
    cache = PrefixCache(2, chunk_size=1)
    held = computed(cache, [1])
    with pytest.raises(RuntimeError, match="held"):
        cache.clear()
    cache.release(held)
    cache.clear()
    assert not cache.acquire([1], keep=True)[0].ready
