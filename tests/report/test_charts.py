"""Axes by hand, and charts that hold every point, interval and name."""

import pytest

from o1jax.report import charts
from o1jax.report import charts as axes


def texts(axis):
    return [text for _, text in axis.ticks]


@pytest.mark.parametrize(
    "values, options, wanted",
    [
        ([0.41, 0.5], {"percent": True, "zero": True}, ["0 %", "20 %", "40 %", "60 %"]),
        ([0.93, 1.0], {"percent": True}, ["92 %", "94 %", "96 %", "98 %", "100 %"]),
        ([3, 3], {}, ["1", "2", "3", "4", "5"]),
        ([0.01, 0.01 + 2e-18], {"percent": True}, ["0 %", "2 %", "4 %", "6 %"]),
        ([1.2e-7, 8.9e-8], {}, ["8e-8", "9e-8", "1e-7", "1.1e-7", "1.2e-7"]),
        ([], {}, ["0", "0.25", "0.5", "0.75", "1"]),
        ([float("nan"), 0, 10], {}, ["0", "2.5", "5", "7.5", "10"]),
    ],
)
def test_ticks_are_round_numbers_around_the_values(values, options, wanted):
    assert texts(axes.of_numbers("", values, **options)) == wanted


def test_counts_have_whole_ticks_and_end_where_they_end():
    axis = axes.of_counts("", [0, 2])
    assert texts(axis) == ["0", "1", "2"] and (axis.low, axis.high) == (0, 2)
    assert texts(axes.of_counts("", [1, 700])) == ["200", "400", "600"]
    assert texts(axes.of_counts("", [5])) == ["5"]


def test_a_value_lies_between_the_ends_of_its_axis():
    axis = axes.of_numbers("", [0, 10])
    assert [axis.at(value, 100, 50) for value in (0, 5, 10)] == [100, 125, 150]


def test_a_chart_holds_every_point_interval_and_name():
    points = [charts.Point(0, 0.2, 0.1, 0.3, "9 problems"), charts.Point(1, 0.4)]
    series = [charts.Series("<one>", points), charts.Series("two", points[:1]), charts.Series("none", [])]
    drawn = charts.lines("a & b", series, axes.of_names("round", ["x", "y"]), axes.of_numbers("", [0, 1]))
    assert drawn.count("class=interval") == 2 and drawn.count("<title>") == 3
    assert "<title>&lt;one&gt;: 0.2 [0.1, 0.3], 9 problems</title>" in drawn
    assert "a &amp; b" in drawn and ">round<" in drawn and "none" not in drawn


def test_a_long_line_has_no_marks():
    points = [charts.Point(k, k) for k in range(charts.MOST_MARKS + 1)]
    drawn = charts.lines("", [charts.Series("", points)], *[axes.of_counts("", [0, 30])] * 2)
    assert "class=mark" not in drawn and drawn.count("L") >= charts.MOST_MARKS
