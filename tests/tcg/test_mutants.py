"""Mutants: one change each, different from one another, and never a change to how input is read."""

import ast
import json
import pathlib

import pytest

from o1jax.problems.ladder.problems import make_problems
from o1jax.records import InputError
from o1jax.tcg.mutants import mutants

MBPP = pathlib.Path(__file__).parents[3] / "shared" / "data" / "mbpp" / "mbpp.jsonl"
ALL = 10_000


def all_of(source):
    return set(mutants(source, ALL, seed=0))


def plain(source):
    return ast.unparse(ast.parse(source))


@pytest.mark.parametrize(
    ("source", "mutant"),
    [
        ("def f(x):\n    return x < 3", "def f(x):\n    return x <= 3"),
        ("def f(x):\n    return x == 3", "def f(x):\n    return x != 3"),
        ("def f(x):\n    return x not in [3]", "def f(x):\n    return x in [3]"),
        ("def f(x):\n    return x + 3", "def f(x):\n    return x - 3"),
        ("def f(x):\n    return x // 3", "def f(x):\n    return x % 3"),
        ("def f(x):\n    x *= 3\n    return x", "def f(x):\n    x += 3\n    return x"),
        ("def f(x):\n    return x * 3", "def f(x):\n    return x * 2"),
        ("def f(x):\n    return x * 3", "def f(x):\n    return x * 0"),
        ("def f(x):\n    return x + 'a'", "def f(x):\n    return x + ''"),
        ("def f(x):\n    return x * -1", "def f(x):\n    return x * +1"),
        ("def f(x):\n    return x[:len(x)]", "def f(x):\n    return x[:len(x) - 1]"),
        ("def f(x):\n    return x[0]", "def f(x):\n    return x[-1]"),
        ("def f(x):\n    return range(x)", "def f(x):\n    return range(x + 1)"),
        ("def f(x):\n    return 1 if x else 2", "def f(x):\n    return 1 if not x else 2"),
        ("def f(x):\n    return [v for v in x if not v]", "def f(x):\n    return [v for v in x if v]"),
        ("def f(x, y):\n    return x and y", "def f(x, y):\n    return x or y"),
        ("def f(x):\n    return min(x)", "def f(x):\n    return max(x)"),
        ("def f(x):\n    return any(x)", "def f(x):\n    return all(x)"),
        ("def f(x):\n    return sorted(x, reverse=True)", "def f(x):\n    return list(x)"),
        ("def f(x):\n    return sorted(x, reverse=True)", "def f(x):\n    return sorted(x, reverse=False)"),
        ("def f(x):\n    return sorted(x, reverse=True)", "def f(x):\n    return sorted(x)"),
        ("def f(x):\n    x.sort()\n    return x", "def f(x):\n    return x"),
        (
            "def f(x):\n    if x:\n        x = 1\n    return x",
            "def f(x):\n    if x:\n        pass\n    return x",
        ),
        (
            "def f(x):\n    x += 1\n    x *= 2\n    return x",
            "def f(x):\n    x *= 2\n    x += 1\n    return x",
        ),
    ],
)
def test_each_kind_of_change_is_made(source, mutant):
    assert mutant in all_of(source)


@pytest.mark.parametrize(
    "source",
    [
        "print(input())",
        "import sys\nread = sys.stdin.readline\nx = int(read()[0 + 1])\nprint(x)",
        "def ints():\n    return list(map(int, input().split()[1:]))\nx = ints()\nprint(x)",
        "import sys\ndata = sys.stdin.read().split()[:-1]\nprint(data)",
        "from math import inf",
        "'''Doc.'''",
        "def f(x: list[3]) -> dict[1, 2]:\n    '''Doc.'''\n    return x",
        "def main():\n    print(input())\nif __name__ == '__main__':\n    main()",
        "x = input()\ny = x\nprint(y)",
    ],
)
def test_reading_definitions_and_the_last_statement_are_left_alone(source):
    assert all_of(source) == set()


def test_a_loop_over_the_input_keeps_its_head_and_changes_its_body():
    found = all_of("t = 0\nfor _ in range(int(input())):\n    t += 1\nprint(t)")
    assert "t = 0\nfor _ in range(int(input())):\n    t -= 1\nprint(t)" in found
    assert all("for _ in range(int(input())):" in mutant for mutant in found)


def test_no_name_is_left_unbound():
    assert "def f(x):\n    return y" not in all_of("def f(x):\n    y = x\n    return y")
    assert "print(y)\ny = 1" not in all_of("y = 1\nprint(y)")


def check_family(source):
    found = mutants(source, 12, seed=3)
    assert found == mutants(source, 12, seed=3)
    assert len(set(found)) == len(found) <= 12 and plain(source) not in found
    for mutant in found:
        compile(mutant, "<mutant>", "exec", dont_inherit=True)
        assert plain(mutant) == mutant, "a reader must see the tree that was meant"
    return found


def test_ladder_programs_have_many_mutants():
    problems = make_problems("pool", {2: 15, 3: 15}, seed=1)
    counts = [len(check_family(source)) for problem in problems for source in problem.solutions]
    assert min(counts) >= 1 and sum(counts) / len(counts) > 8
    reads = [s.splitlines()[0] for p in problems if p.form == "stdin" for s in p.solutions]
    made = [
        m.splitlines()[0]
        for p in problems
        if p.form == "stdin"
        for s in p.solutions
        for m in mutants(s, 3, 0)
    ]
    assert set(made) <= {plain(read) for read in reads}


@pytest.mark.filterwarnings("ignore:invalid escape sequence")  # of the data set's programs
def test_mbpp_programs_have_mutants():
    if not MBPP.exists():
        pytest.skip(f"no data set at {MBPP}")
    rows = [json.loads(line) for line in MBPP.read_text().splitlines()][::8]
    counts = [len(check_family(row["code"])) for row in rows]
    assert sum(map(bool, counts)) >= 0.85 * len(counts) and sum(counts) / len(counts) > 5


def test_the_seed_draws_and_the_kinds_take_turns():
    source = "def f(x):\n    x = sorted(x)\n    x = x[:3]\n    return [v * 2 for v in x if v < 90 or v == 5]"
    assert mutants(source, 5, seed=0) != mutants(source, 5, seed=1)
    assert mutants(source, 0, seed=0) == ()
    for seed in range(5):  # one kind in each turn: one call, of which there is only one
        assert sum("list(x)" in mutant for mutant in mutants(source, 8, seed)) == 1


@pytest.mark.parametrize("source", ["def f(:", "x = '\0'", "(" * 500 + ")" * 500])
def test_a_source_that_does_not_parse_is_an_input_error(source):
    with pytest.raises(InputError, match="does not parse"):
        mutants(source, 3, seed=0)
