"""The comparison rules, without any process."""

import pytest

from o1jax.records import Status
from o1jax.sandbox.compare import PYTHON, Rules, compare_stdout, equal_value, meets
from o1jax.sandbox.graders import grade_stdout
from o1jax.sandbox.jail.values import BadValue, encode

STRICT, JSON = Rules(), Rules(tuple_is_list=True)
NAN = float("nan")


@pytest.mark.parametrize(
    ("expected", "output", "status"),
    [
        ("1 2\n", "1 2\n", "AC"),
        ("1 2\n", "1 2", "AC"),
        ("1 2\n3\n", "1 2  \r\n3\r\n\r\n", "AC"),
        ("1 2\n", "1\n2\n", "PE"),
        ("1 2", "1  2", "PE"),
        ("1 2", "12", "WA"),
        ("1 2", "2 1", "WA"),
        ("1", "1 1", "WA"),
        ("", "", "AC"),
        ("", "1", "WA"),
        ("Yes", "YES", "WA"),
        ("5", "5.0004", "WA"),
        ("5", "5.0", "WA"),
        ("5", "+5", "AC"),
        ("-5", "-05", "WA"),
        ("-0", "0", "AC"),
        ("5", "005", "WA"),
        ("0", "0000", "WA"),
        ("0000", "0", "WA"),
        ("0000", "+0000", "AC"),
        ("001", "1", "WA"),
        ("1 02", "1 2", "WA"),
        ("07.5", "7.5", "WA"),
        ("0.5", ".5", "AC"),
        ("0.5", "00.5", "WA"),
        ("5", "-5", "WA"),
        ("5", "٥", "WA"),
        ("1_000", "1000", "WA"),
        ("9" * 5000, "9" * 5000, "AC"),
        ("9" * 5000, "+" + "9" * 5000, "AC"),
        ("9" * 5000, "0" + "9" * 5000, "WA"),
        ("9" * 5000, "9" * 4999 + "8", "WA"),
        ("5.0", "5", "AC"),
        ("0.33333333", "0.3333333", "AC"),
        ("5.0", "5.0004", "WA"),
        ("5.0", "5.0000004", "AC"),
        ("1e10", "10000000001", "AC"),
        ("1000000.0", "1000001.1", "WA"),
        ("1.0", "nan", "WA"),
        ("nan", "nan", "AC"),
        ("1.0", "inf", "WA"),
        ("1e999", "2e999", "WA"),
        ("7e400", "1e999", "WA"),
        ("7e400", "70e399", "AC"),
        ("7e400", "7.0000001e400", "AC"),
        ("7e400", "-7e400", "WA"),
        ("1e" + "9" * 30, "2e" + "9" * 30, "WA"),
        ("1e308", "1e309", "WA"),
        ("1 2", "1\x1f2", "WA"),
        ("1 2", "1\u00a02", "WA"),
        ("1\u00a02", "1\u00a02", "AC"),
        ("1\n2", "1\u20282", "WA"),
        ("1", "1\u00a0", "WA"),
        ("1 2", "1\t\v\f2", "PE"),
        ("1.0", "0x1", "WA"),
        ("1e400", "5", "WA"),
        ("9" * 400 + ".0", "5", "WA"),
    ],
)
def test_stdout_rules(expected, output, status):
    assert compare_stdout(expected, output.encode())[0] is Status(status)


def test_output_must_be_utf8():
    status, detail = compare_stdout("a", b"a\xff")
    assert status is Status.WA and "UTF-8 at byte 1" in detail


@pytest.mark.parametrize("want", ["1", "1.0", "x"])
@pytest.mark.parametrize(
    "token", ["0" * 10**6 + "x", "1" * 10**6 + "x", "1." + "0" * 10**6 + "x", "9" * 10**6]
)
def test_a_million_digits_take_no_quadratic_time(want, token):
    assert compare_stdout(want, token.encode())[0] is Status.WA


def test_the_first_difference_is_named():
    assert compare_stdout("1 2 3", b"1 5 3")[1] == "token 2: expected '2', got '5'"


@pytest.mark.parametrize(
    ("expected", "value", "rules", "equal"),
    [
        (1, 1, STRICT, True),
        (1, True, STRICT, False),
        (True, 1, STRICT, False),
        (1, True, PYTHON, True),
        (False, 0, PYTHON, True),
        (1, 1.0, STRICT, True),
        (5, 5.0000001, STRICT, False),
        (5.0, 5.0000001, STRICT, True),
        (5.0, 5.001, STRICT, False),
        (1e9, 1e9 + 50, STRICT, True),
        (1e9, 1e9 + 500, STRICT, False),
        (1.0, 10**400, STRICT, False),
        (10**400, 10**400, STRICT, True),
        (10**400, 10**400 + 1, STRICT, False),
        (float("inf"), float("inf"), STRICT, True),
        (float("inf"), 1.0, STRICT, False),
        ("1", 1, STRICT, False),
        (None, None, STRICT, True),
        (None, 0, STRICT, False),
        (None, False, PYTHON, False),
        (0, 4e-7, PYTHON, False),
        (0.0, 4e-7, PYTHON, False),
        (0.0, 4e-7, STRICT, True),
        (0.3, 0.1 + 0.2, PYTHON, False),
        (0.0, -0.0, PYTHON, True),
        (2**53, 2.0**53, PYTHON, True),
        (2**53 + 1, 2.0**53, PYTHON, False),
        (float("inf"), 10**400, PYTHON, False),
        ([1, 2], (1, 2), STRICT, False),
        ([1, 2], (1, 2), JSON, True),
        ((1, [2]), [1, (2,)], JSON, True),
        ([1, 2], [2, 1], JSON, False),
        ([1, 2], {1, 2}, JSON, False),
        ([0.3], [0.1 + 0.2], STRICT, True),
        ({1: "a"}, {1: "a"}, STRICT, True),
        ({1: 0.3}, {1: 0.1 + 0.2}, STRICT, True),
        ({1: "a"}, {1: "a", 2: "b"}, STRICT, False),
        ({"1": "a"}, {1: "a"}, STRICT, False),
        ({(1, 2): 3}, {(1, 2): 3}, STRICT, True),
        ({1, 2, 3}, {3, 2, 1}, STRICT, True),
        ({1, 2}, {1.0, 2.0}, STRICT, True),
        ({frozenset({1, 2})}, {frozenset({2, 1})}, STRICT, True),
        (set(), set(), STRICT, True),
        (set(), [], STRICT, False),
        (b"ab", b"ab", STRICT, True),
        (b"ab", "ab", STRICT, False),
        (1 + 2j, 1 + 2j, STRICT, True),
        ("\ud800", "\ud800", STRICT, True),
        (1, 1 + 0j, PYTHON, True),
        (1 + 0j, True, PYTHON, True),
        (1j, 1, PYTHON, False),
        (0.0, 1e-9j, STRICT, False),
        ({True: 1}, {1: 1}, PYTHON, True),
        ({1: True}, {1.0: 1}, PYTHON, True),
        ({True: 1}, {1: 1}, STRICT, False),
        ({True, 2}, {1, 2}, PYTHON, True),
        ({10**20}, {1e20}, PYTHON, True),
        ({10**20 + 1}, {1e20}, PYTHON, False),
        ({1e300: 1}, {int(1e300): 1}, PYTHON, True),
        ({1 + 0j, 2j}, {1, 2j}, PYTHON, True),
        ({0: "a"}, {-0.0: "a"}, PYTHON, True),
        ({(1, True)}, {(1.0, 1 + 0j)}, PYTHON, True),
        ({frozenset({True, (10**20,)})}, {frozenset({1, (1e20,)})}, PYTHON, True),
        ({(1,)}, {frozenset({1})}, PYTHON, False),
        ({"1"}, {1}, PYTHON, False),
        ({None}, {"None"}, PYTHON, False),
        (frozenset({1}), {1}, PYTHON, True),
        (NAN, NAN, PYTHON, False),
        ({NAN}, {float("nan")}, PYTHON, False),
        ({float("inf")}, {float("-inf")}, PYTHON, False),
        (b"ab", bytearray(b"ab"), PYTHON, True),
    ],
)
def test_value_rules(expected, value, rules, equal):
    assert equal_value(expected, encode(value), rules) is equal


@pytest.mark.parametrize(
    ("want", "value", "same"),
    [(None, None, True), (True, True, True), (True, 1, False), (1, True, False), (1, 1.0, False)],
)
def test_is_tells_a_bool_from_a_number(want, value, same):
    assert meets("identical", want, encode(value)) is same
    assert meets("equal", want, encode(value)) is (want == value)


@pytest.mark.parametrize("wrap", [lambda x: (x, "b"), lambda x: frozenset({x})])
def test_keys_that_are_nested_deep_take_no_exponential_time(wrap):
    deep = 'a"'
    for _ in range(120):
        deep = wrap(deep)
    assert equal_value({deep}, encode({deep}), PYTHON) and not equal_value({1}, encode({deep}), PYTHON)


@pytest.mark.parametrize(
    ("expected", "output", "passes"),
    [
        ("  *\n ***\n", "  *\n ***\n", True),
        ("  *\n ***\n", "  * \r\n ***", True),
        ("  *\n ***\n", "*\n***\n", False),
        ("1  2", "1 2", False),
        ("1\t2", "1 2", False),
        ("a\n\nb\n", "a\nb\n", False),
        ("1 2\n3", "1\n2\n3\n", True),
        ("1 2 \n3\n\n", "1 2\n3", True),
        ("1 2\n3\n", "1\x1f2\u00a03", False),
        ("1.0", "1.00", False),
    ],
)
def test_exact_asks_for_the_layout_that_an_expected_output_has(expected, output, passes):
    assert (grade_stdout("exact", expected, output.encode())[0] is Status.AC) is passes


def test_unordered_knows_no_other_blanks_either():
    assert grade_stdout("unordered", "b\na 1\n", b"a 1 \r\n\nb")[0] is Status.AC
    assert grade_stdout("unordered", "b\na", "a\n\u00a0b".encode())[0] is Status.WA


@pytest.mark.parametrize(
    "junk",
    [{"t": 1}, {"d": [1]}, {"d": [[1]]}, {"i": "x"}, {"i": []}, {"s": {}}, {}, {"?": 1}, {"c": ["1", 0]}],
)
@pytest.mark.parametrize("expected", [1, 1.5, "a", None, [1], (1,), {1: 2}, {1}, b"a", 1j])
def test_forged_encodings_are_wrong_and_raise_nothing(expected, junk):
    assert equal_value(expected, junk, JSON) is False


def test_encoder_refuses_what_is_not_plain():
    class Sub(int):
        pass

    loop: list = []
    loop.append(loop)
    for value in (Sub(1), object(), iter([]), loop, [Sub(1)], {Sub(1): 1}, range(3), len):
        with pytest.raises(BadValue):
            encode(value)
