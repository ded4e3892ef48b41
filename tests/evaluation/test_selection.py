"""Selection without a reference: hand-made matrices, ties to the first."""

import pytest

from o1jax.evaluation.choice import by_agreement, by_vote, comparable, first_by_tests
from o1jax.records import CaseResult, Rollout, Status, Verdict

T, F = True, False


def by_majority(outputs_N_C):
    return by_vote(comparable(outputs_N_C), [1.0] * len(outputs_N_C))


def test_agreement_weighs_programs_against_cases():
    assert by_agreement([[T, F, F], [T, T, F], [T, T, F], [T, T, T]]) == 1  # 2 x 2 beats 1 x 3
    assert by_agreement([[T, F, F], [T, T, T], [F, T, F]]) == 1
    assert by_agreement([[T, F], [F, T], [T, F], [F, T]]) == 0


def test_a_program_that_passes_nothing_is_chosen_only_among_its_like():
    assert by_agreement([[F, F], [F, F], [F, F], [F, T]]) == 3
    assert by_agreement([[F, F], [F, F]]) == 0
    assert by_agreement([[], []]) == 0


def test_majority_takes_the_first_of_the_largest_group():
    assert by_majority([["1", "2"], ["3", "4"], ["3", "4"]]) == 1
    assert by_majority([["1"], ["2"], ["2"], ["1"]]) == 0
    assert by_majority([["1 \n"], ["2"], ["3"], ["1\n\n"]]) == 0
    assert by_majority([["2"], ["1 1\n"], ["1\n1\n"]]) == 0


def test_a_missing_output_is_in_no_group():
    assert by_majority([[None, "1"], [None, "1"], ["2", "1"]]) == 2
    assert by_majority([[None], [None]]) == 0


def test_inputs_that_no_program_survives_do_not_count():
    assert by_majority([[None, "1"], [None, "2"], [None, "2"]]) == 1


@pytest.mark.parametrize("select", [by_agreement, by_majority])
def test_no_programs_is_an_error(select):
    with pytest.raises(ValueError, match="program"):
        select([])


@pytest.mark.parametrize("select", [by_majority])
def test_ragged_rows_are_an_error(select):
    with pytest.raises(ValueError):
        select([["1", "2"], ["1"]])


def test_votes_are_weighed_by_score_and_the_best_of_the_group_stands_for_it():
    rows = comparable([["1"], ["2"], ["2 "], ["2"], ["3"]])
    assert by_vote(rows, [0.5, 0.1, 0.3, 0.2, 0.55]) == 2  # .6 of three beats the best alone
    assert by_vote(rows, [0.5, 0.1, 0.2, 0.1, 0.3]) == 0  # one that is trusted beats three that are not
    assert by_vote(rows, [0.9, 0.4, 0.5, 0.0, 0.9]) == 0, "of equal sums the first group"
    assert by_vote(rows, [0.0, 0.4, 0.4, 0.4, 0.0]) == 1, "of equal scores the first program"
    assert by_vote(comparable([["1", None], ["1", "2"]]), [0.9, 0.1]) == 1, "a missing output has no vote"
    assert by_vote(comparable([["1", None], [None, "2"]]), [0.1, 0.9]) == 0


def rollout(*passed):
    cases = tuple(CaseResult(Status.AC if ok else Status.WA) for ok in passed)
    return Rollout(
        "r", "g", "p", (1,), (2,), (0.0,), (True,), "eos", 1.0, 0, "pseudocode", "x", Verdict(T, cases)
    )


def test_ties_are_of_those_that_pass_most_tests():
    assert first_by_tests([rollout(T, F), rollout(F, F), rollout(F, T)]) == [0, 2]
    assert first_by_tests([rollout(T, F), rollout(T, T), rollout(F, T)]) == [1]
    assert first_by_tests([rollout(F), rollout(F)]) == [0, 1]
