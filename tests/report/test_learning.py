"""Whether a run learned: paired over problems, by hand."""

import made_run
import pytest
from etils import epath

from o1jax.report import page, summary
from o1jax.report.learning import change, counts_of, headline
from o1jax.report.run_files import RunFiles


def said(run):
    files = RunFiles(run)
    return headline(files, summary.of(files))


def test_a_change_is_paired_over_the_problems_that_both_have():
    before = {"a": (0, 2), "b": (1, 2), "c": (2, 2)}
    after = {"a": (2, 2), "b": (2, 2), "d": (0, 2)}
    found = change(before, after)  # differences 1 and .5: mean .75, standard error .25
    assert (found.before, found.after, found.mean, found.n) == (0.25, 1.0, 0.75, 2)
    assert found.low == pytest.approx(0.75 - 1.96 * 0.25) and found.high == pytest.approx(0.75 + 1.96 * 0.25)
    assert found.state == "better"


def test_a_change_says_what_its_interval_says():
    before = {str(k): (k % 2, 2) for k in range(40)}
    assert change(before, before).state == "unclear"
    assert change({key: (2, 2) for key in before}, before).state == "worse"
    assert change(before, {"0": (1, 2)}) is None


def test_passing_answers_are_counted_by_problem(tmp_path):
    made_run.evaluation(epath.Path(tmp_path), "warm_up_evaluate", [0, 3, 4])
    counts = counts_of(RunFiles(epath.Path(tmp_path)), "warm_up_evaluate")
    assert counts == {"held_out/0": (0, 4), "held_out/1": (3, 4), "held_out/2": (4, 4)}


def test_the_headline_gives_the_change_and_the_arms_beside_it(tmp_path):
    found = said(made_run.whole(tmp_path))
    assert found.state == "better" and found.word == "It learned"
    assert "12.5 % → 81.2 %, +68.8 points" in found.text and "self-play less sampling: +6.2" in found.more[0]


def test_the_headline_of_an_unfinished_run_says_what_there_is(tmp_path):
    run = epath.Path(tmp_path)
    made_run.evaluation(run, "warm_up_evaluate", [0, 4])
    assert said(run).text.startswith("pass@1 on 2 problems (warm-up): 50.0 %")


def test_an_evaluation_alone_is_a_run_too(tmp_path):
    made_run.evaluation(epath.Path(tmp_path), "mine", [0, 4])
    run = epath.Path(tmp_path) / "mine"
    assert said(run).text.startswith("pass@1 on 2 problems (., pseudocode prompt): 50.0 %")
    files = RunFiles(run)
    assert said(run).text.endswith(", 12.5 % without a program, 6.2 % cut by length")
    shown = page.html(files, summary.of(files), said(run))
    assert "Other evaluations" in shown and "37.5 %" in shown and "cut by length" in shown


def test_the_headline_of_nothing_says_so(tmp_path):
    assert said(epath.Path(tmp_path)).word == "Nothing measured yet"
