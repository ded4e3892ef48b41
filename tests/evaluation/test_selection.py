"""Selection without a reference: hand-made matrices, ties to the first."""

import pytest

from o1jax.evaluation.choice import by_agreement, by_majority

T, F = True, False


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
