"""Settings from a config: unknown and missing keys and wrong types are refused in one line."""

import dataclasses

import pytest

from o1jax.records import InputError
from o1jax.stages.settings import parse


@dataclasses.dataclass(frozen=True)
class Inner:
    slots: int = 4


@dataclasses.dataclass(frozen=True)
class Outer:
    name: str
    rate: float = 0.5
    inner: Inner = Inner()
    styles: tuple[str, ...] = ("a",)


def test_values_arrive_with_their_types():
    assert parse(Outer, {"name": "x", "rate": 1, "inner": {"slots": 8}, "styles": ["b", "c"]}) == Outer(
        "x", 1.0, Inner(8), ("b", "c")
    )


@pytest.mark.parametrize(
    "config, words",
    [
        ({"name": "x", "rat": 1}, r"search\.rat: no such key; search has name, rate"),
        ({"name": "x", "inner": {"slot": 1}}, r"search\.inner\.slot: no such key"),
        ({}, r"search\.name: missing"),
        ({"name": 3}, r"search\.name: saw 3, wanted str"),
        ({"name": "x", "inner": {"slots": True}}, r"search\.inner\.slots: saw True, wanted int"),
    ],
)
def test_a_wrong_config_is_one_line(config, words):
    with pytest.raises(InputError, match=words):
        parse(Outer, config, "search")
