"""Stops: the token that completes a string, however the string is split over tokens."""

import tiny_engine as tiny

from o1jax.engine.jobs import Stop, token_bytes

TABLE = [b"<", b"|Step", b"_End", b">\n", b"x", b"<Step_End>", b"a<Step_End>b", b"Step"]


def stop_at(*strings: str, ends: tuple[int, ...] = (), ids: frozenset[int] = frozenset()) -> Stop:
    return Stop(ends, ids, tuple(text.encode() for text in strings))


def test_the_token_that_runs_past_the_end_is_the_one_that_stops():
    stop = stop_at("<Step_End>")
    assert stop.find(b"", [4, 0, 7, 2, 3, 4], TABLE) == 4  # Qwen's split: >\n is one token


def test_a_string_that_began_in_an_earlier_block_is_found():
    stop = stop_at("<Step_End>")
    tail = stop.tail(b"", [4, 0, 7], TABLE)
    tail = stop.tail(tail, [2], TABLE)
    assert stop.find(tail, [3], TABLE) == 0 and stop.find(tail, [4, 3], TABLE) is None


def test_the_tail_holds_no_whole_stop_and_stays_short():
    stop = stop_at("<Step_End>", "x")
    assert len(stop.tail(b"y" * 50, [0], TABLE)) == len("<Step_End>") - 1
    assert stop_at("x").tail(b"", [0], TABLE) == b""


def test_the_first_of_string_and_token_stops():
    stop = stop_at("<Step_End>", ends=(4,), ids=frozenset({1}))
    assert stop.find(b"", [0, 4, 5], TABLE) == 1
    assert stop.find(b"", [0, 5, 4], TABLE) == 1
    assert stop.find(b"", [0, 1, 4], TABLE) == 1
    assert stop.find(b"", [0, 2], TABLE) is None


def test_the_device_sees_the_ends_the_ids_and_tokens_that_hold_a_whole_string():
    stop = stop_at("<Step_End>", ends=(3, 2), ids=frozenset({1}))
    assert stop.device_ids(TABLE, 8) == (3, 2, 1, 5, 6)
    assert stop.device_ids(TABLE, 2) == (3, 2)


def test_token_bytes_join_to_the_decoded_text():
    tokenizer = tiny.tokenizer()
    table = token_bytes(tokenizer, len(tokenizer) + 5)
    ids = tokenizer.encode("def é(xs):\n\treturn 'ß' <Step_End> + 1")
    assert b"".join(table[i] for i in ids).decode() == tokenizer.decode(ids, skip_special_tokens=False)
    assert len(table) == len(tokenizer) + 5 and table[-1] == b""
