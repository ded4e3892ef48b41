"""The strict encoder of values that leave a candidate: exact built-in types to tagged JSON, and back.

Loaded both inside the child and by the supervisor. It calls no method of a value: what is not of
an exact built-in type (a subclass, a generator, an array) raises BadValue. It compares nothing.
"""

import collections

MAX_DEPTH = 150
MAX_NODES = 1 << 22  # the CPU and memory limits come first, but for values that other limits allow
SMALL_INT = 1 << 60
# Types are told by identity: a candidate's metaclass may say that it equals any other.
PLAIN = frozenset(map(id, (type(None), bool, str, float)))
# A defaultdict is the dict it compares equal to: its function cannot travel.
DICTS = {"d": dict, "n": collections.Counter, "o": collections.OrderedDict}
DICT_TAGS = {id(kind): tag for tag, kind in DICTS.items()} | {id(collections.defaultdict): "d"}
KINDS = {"t": tuple, "s": set, "f": frozenset}
TAGS = {id(kind): tag for tag, kind in KINDS.items()}


class BadValue(TypeError):
    """The value cannot be returned from a candidate; the message says why in one line."""


def encode(value):
    """`value` as JSON-able data: lists stay lists, {"t"|"s"|"f": items}, {"d"|"n"|"o": pairs},
    {"i": hex}, {"b": hex} and {"c": [re, im]} stand for tuple, set, frozenset, dict, Counter, OrderedDict,
    large int, bytes and complex. Raises BadValue beyond the caps on depth (150) and count (4,194,304)."""
    return _encode(value, 0, [MAX_NODES])


def _encode(value, depth, left):
    left[0] -= 1
    if depth > MAX_DEPTH or left[0] < 0:
        raise BadValue("value too deep or self-referential" if depth > MAX_DEPTH else "value too large")
    kind = type(value)
    if id(kind) in PLAIN:
        return value
    if kind is int:
        return value if -SMALL_INT < value < SMALL_INT else {"i": hex(value)}
    if kind is list:
        return [_encode(item, depth + 1, left) for item in value]
    if id(kind) in TAGS:
        return {TAGS[id(kind)]: [_encode(item, depth + 1, left) for item in value]}
    if id(kind) in DICT_TAGS:
        pairs = dict.items(value)
        return {
            DICT_TAGS[id(kind)]: [
                [_encode(k, depth + 1, left), _encode(v, depth + 1, left)] for k, v in pairs
            ]
        }
    if kind is bytes or kind is bytearray:
        return {"b": bytes(value).hex()}
    if kind is complex:
        return {"c": [value.real, value.imag]}
    raise BadValue(f"value of type {type.__getattribute__(kind, '__name__')!r}"[:200])


def decode(data):
    """The value that `encode` made `data` of. Raises BadValue where it made it of none: the data is
    another process's word."""
    try:
        return _decode(data)
    except (TypeError, ValueError, RecursionError) as error:
        raise BadValue(f"unreadable value: {error}"[:200]) from error


def _decode(data):
    if id(type(data)) in PLAIN or type(data) is int:
        return data
    if type(data) is list:
        return [_decode(item) for item in data]
    ((tag, content),) = data.items() if type(data) is dict else {"": 0}.items()
    if tag in DICTS:
        return DICTS[tag]({_decode(key): _decode(value) for key, value in content})
    if tag == "i":
        return int(content, 16)
    if tag == "b":
        return bytes.fromhex(content)
    if tag == "c":
        return complex(*content)
    if tag not in KINDS:
        raise BadValue("unreadable value")
    return KINDS[tag](_decode(item) for item in content)
