"""Settings from a config: unknown and missing keys and wrong types are refused in one line."""

import dataclasses
from typing import Annotated, Literal

import pytest
from pydantic import Field

from o1jax.records import InputError
from o1jax.stages.settings import parse


@dataclasses.dataclass(frozen=True)
class Inner:
    slots: Annotated[int, Field(ge=1)] = 4
    temperature: float = 0.8


@dataclasses.dataclass(frozen=True)
class Train:
    learning_rate: float = 1e-3


@dataclasses.dataclass(frozen=True)
class Outer:
    name: str
    rate: float = 0.5
    inner: Inner = Inner(temperature=1.0)
    styles: tuple[Literal["a", "b", "c"], ...] = ("a",)
    train: Train = Train()

    def __post_init__(self):
        if self.rate > 1:
            raise InputError(f"search.rate: saw {self.rate}, wanted at most 1")


def test_values_arrive_with_their_types():
    assert parse(Outer, {"name": "x", "rate": 1, "inner": {"slots": 8}, "styles": ["b", "c"]}) == Outer(
        "x", 1.0, Inner(8, 1.0), ("b", "c")
    )


def test_a_nested_record_given_in_part_keeps_the_defaults_of_its_field():
    assert parse(Outer, {"name": "x", "inner": {"slots": 8}}).inner == Inner(8, temperature=1.0)


@pytest.mark.parametrize(
    "config, words",
    [
        ({"name": "x", "rat": 1}, r"search\.rat: no such key; search has name, rate"),
        ({"name": "x", "inner": {"slot": 1}}, r"search\.inner\.slot: no such key"),
        ({}, r"search\.name: missing"),
        ({"name": 3}, r"search\.name: saw 3, wanted text"),
        ({"name": "x", "inner": {"slots": True}}, r"search\.inner\.slots: saw True, wanted a whole number"),
        ({"name": "x", "inner": {"slots": 0}}, r"search\.inner\.slots: saw 0, wanted at least 1"),
        ({"name": "x", "inner": {"slots": 1.5}}, r"search\.inner\.slots: saw 1.5, wanted a whole number"),
        ({"name": "x", "styles": ["a", "d"]}, r"search\.styles: saw 'd', wanted one of a, b, c"),
        ({"name": "x", "styles": "a"}, r"search\.styles: saw 'a', wanted a list"),
        ({"name": "x", "rate": "1"}, r"search\.rate: saw '1', wanted a number"),
        ({"name": "x", "rate": 2}, r"search\.rate: saw 2.0, wanted at most 1"),
        ({"name": "x", "learning_rate": 1}, r"search\.learning_rate: it is search\.train\.learning_rate now"),
        (
            {"name": "x", "rows_per_micro_batch": 1},
            r"rows_per_micro_batch: it is search\.train\.rows_per_batch now",
        ),
    ],
)
def test_a_wrong_config_is_one_line(config, words):
    with pytest.raises(InputError, match=words):
        parse(Outer, config, "search")
