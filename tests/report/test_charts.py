"""Axes by hand, and charts that hold every point, interval and name."""

import re

import made_run
import pytest

from o1jax.report import charts, page


def lines(*chart):
    """A chart of lines as markup."""
    drawn = page.ENVIRONMENT.get_template("elements.jinja").module
    return drawn.line_charts([charts.line_chart(*chart)])


def texts(axis):
    return [text for _, text in axis.ticks]


@pytest.mark.parametrize(
    "values, options, wanted",
    [
        ([0.41, 0.5], {"is_share": True, "zero": True}, ["0 %", "20 %", "40 %", "60 %"]),
        ([0.93, 1.0], {"is_share": True}, ["92 %", "94 %", "96 %", "98 %", "100 %"]),
        ([3, 3], {}, ["1", "2", "3", "4", "5"]),
        ([0.01, 0.01 + 2e-18], {"is_share": True}, ["0 %", "2 %", "4 %", "6 %"]),
        ([1.2e-7, 8.9e-8], {}, ["8e-8", "9e-8", "1e-7", "1.1e-7", "1.2e-7"]),
        ([], {}, ["0", "0.25", "0.5", "0.75", "1"]),
        ([float("nan"), 0, 10], {}, ["0", "2.5", "5", "7.5", "10"]),
    ],
)
def test_ticks_are_round_numbers_around_the_values(values, options, wanted):
    assert texts(charts.number_axis("", values, **options)) == wanted


def test_counts_have_whole_ticks_and_end_where_they_end():
    axis = charts.count_axis("", [0, 2])
    assert texts(axis) == ["0", "1", "2"] and (axis.low, axis.high) == (0, 2)
    assert texts(charts.count_axis("", [1, 700])) == ["200", "400", "600"]
    assert texts(charts.count_axis("", [5])) == ["5"]


def test_a_value_lies_between_the_ends_of_its_axis():
    axis = charts.number_axis("", [0, 10])
    assert [axis.at(value, 100, 50) for value in (0, 5, 10)] == [100, 125, 150]


def test_a_chart_holds_every_point_interval_and_name():
    points = [charts.Point(0, 0.2, 0.1, 0.3, "9 problems"), charts.Point(1, 0.4)]
    series = [charts.Series("<one>", points), charts.Series("two", points[:1]), charts.Series("none", [])]
    drawn = lines("a & b", series, charts.number_axis("round", [0, 1]), charts.number_axis("", [0, 1]))
    assert drawn.count('class="interval"') == 2 and drawn.count("<title>") == 3
    assert "<title>&lt;one&gt;: 0.2 [0.1, 0.3], 9 problems</title>" in drawn
    assert "a &amp; b" in drawn and ">round<" in drawn and "none" not in drawn


def test_a_long_line_has_no_marks():
    points = [charts.Point(k, k) for k in range(charts.MOST_MARKS + 1)]
    drawn = lines("", [charts.Series("", points)], *[charts.count_axis("", [0, 30])] * 2)
    assert 'class="mark"' not in drawn and drawn.count("L") >= charts.MOST_MARKS


def test_a_long_name_in_a_chart_leaves_room_for_its_value():
    elements = page.ENVIRONMENT.get_template("elements.jinja").module
    drawn = elements.dot_charts([charts.shares("title", [("n" * 80, made_run.share(0.5))])])
    shown = re.search(r">(n+…)<", drawn)[1]
    assert len(shown) + len("50.0 % [40.0, 60.0]") == elements.DOT_CHARACTERS
    assert f"<title>{'n' * 80}</title>" in drawn and "50.0 % [40.0, 60.0]" in drawn
