"""The strict encoder of call-form values: exact built-in types to tagged JSON.

Loaded both inside the child and by the supervisor. It calls no method of a value: what is not of
an exact built-in type (a subclass, a generator, an array) raises BadValue. It compares nothing.
"""

import collections

MAX_DEPTH = 150
MAX_NODES = 500_000
SMALL_INT = 1 << 60
PLAIN = (type(None), bool, str, float)
# Exact standard-library dictionaries count as the dict they compare equal to.
DICTS = (dict, collections.Counter, collections.defaultdict, collections.OrderedDict)
TAGS = {tuple: "t", set: "s", frozenset: "f"}


class BadValue(TypeError):
    """The value cannot be returned from a candidate; the message says why in one line."""


def encode(value):
    """`value` as JSON-able data: lists stay lists, {"t"|"s"|"f": items}, {"d": pairs}, {"i": hex},
    {"b": hex} and {"c": [re, im]} stand for tuple, set, frozenset, dict, large int, bytes and
    complex. Raises BadValue beyond the caps on depth (150) and count (500,000)."""
    return _encode(value, 0, [MAX_NODES])


def _encode(value, depth, left):
    left[0] -= 1
    if depth > MAX_DEPTH or left[0] < 0:
        raise BadValue("value too deep or self-referential" if depth > MAX_DEPTH else "value too large")
    kind = type(value)
    if kind in PLAIN:
        return value
    if kind is int:
        return value if -SMALL_INT < value < SMALL_INT else {"i": hex(value)}
    if kind is list:
        return [_encode(item, depth + 1, left) for item in value]
    if kind in TAGS:
        return {TAGS[kind]: [_encode(item, depth + 1, left) for item in value]}
    if kind in DICTS:
        pairs = dict.items(value)
        return {"d": [[_encode(k, depth + 1, left), _encode(v, depth + 1, left)] for k, v in pairs]}
    if kind is bytes or kind is bytearray:
        return {"b": bytes(value).hex()}
    if kind is complex:
        return {"c": [value.real, value.imag]}
    raise BadValue(f"value of type {type.__getattribute__(kind, '__name__')!r}"[:200])
