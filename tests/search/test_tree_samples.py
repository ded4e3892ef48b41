"""Labels on a tree drawn by hand, and D+, pairs and preferences from it."""

import dataclasses
import itertools

import pytest
import scripted

from o1jax.prm.nodes import nodes_of
from o1jax.records import CaseResult, Node, Status, Tree, Verdict
from o1jax.search import samples
from o1jax.search.tree import children_of, path_ids, path_to

EOS = 99
ENDS = (EOS, 98)  # answers may end with both, and are trained with the first
AC, WA = CaseResult(Status.AC), CaseResult(Status.WA)
PASS, HALF, FAIL = Verdict(True, (AC, AC)), Verdict(True, (AC, WA)), Verdict(True, (WA, WA))


def draw(*rows):
    """A tree from (parent, token ids, verdict or None, program or error or "")."""
    nodes = [Node(index=0, parent=-1, depth=0, action=0)]
    for parent, ids, verdict, said in rows:
        depth = nodes[parent].depth + 1
        is_dead = verdict is None and said != ""
        node = Node(
            index=len(nodes),
            parent=parent,
            depth=depth,
            action=3 if verdict else 1,
            token_ids=ids,
            text=scripted.step(depth, 3, said) if verdict else "",
            terminal=verdict is not None,
            value=verdict.pass_rate if verdict else 0.0 if is_dead else None,
            verdict=verdict,
            error=said if is_dead else "",
        )
        nodes.append(node)
    return Tree("p", (1, 2), tuple(nodes), 0, 1.0, 4, 50, 5)


#            root
#       1          2        3 (never visited)
#     4   5(0)    6(dead)
#  7(1) 8(.5) 9(1, as 7's program, longer)
TREE = draw(
    (0, (10,), None, ""),
    (0, (20,), None, ""),
    (0, (30,), None, ""),
    (1, (11,), None, ""),
    (1, (12, EOS), FAIL, "fails()"),
    (2, (21,), None, "malformed"),
    (4, (13, 98), PASS, "passes()"),
    (4, (14,), HALF, "half()"),
    (4, (15, 16), PASS, "passes()"),
)
OTHER = draw(
    (0, (10, 11, 12, 13, 14, 15), PASS, "a()"),
    (0, (10, 11, 12, 13, 14), PASS, "b()"),
    (0, (50, 51, 52, 53, 54, 55, 56), PASS, "c()"),
    (0, (9,), FAIL, "d()"),
)


def test_labels_are_mean_pass_rates_of_distinct_leaves():
    labels = [dataclasses.astuple(label) for label in samples.label_nodes(TREE)]
    assert labels[0] == (2.5 / 5, 1.0, 5, 2.5 / 5)
    assert labels[1] == (2.5 / 4, 1.0, 4, 2.5 / 4)
    assert labels[2] == (0.0, 0.0, 1, 0.0)
    assert labels[3][2] == 0
    assert labels[4] == (pytest.approx(2.5 / 3), 1.0, 3, pytest.approx(2.5 / 3))
    assert labels[5:] == [(0, 0, 1, 0), (0, 0, 1, 0), (1, 1, 1, 1), (0.5, 0, 1, 0.5), (1, 1, 1, 1)]


def test_what_compiling_is_worth_moves_no_label():
    compiles = [
        dataclasses.replace(n, value=0.1 + 0.9 * n.value if n.verdict else n.value) for n in TREE.nodes
    ]
    before, after = (samples.label_nodes(tree) for tree in (TREE, dataclasses.replace(TREE, nodes=compiles)))
    assert [(a.soft, a.hard) for a in after] == [(b.soft, b.hard) for b in before]
    assert after[1].mean_value == pytest.approx(0.1 + 0.9 * before[1].mean_value)


def test_passing_samples_are_distinct_by_program_and_end_with_eos():
    (sample,) = samples.passing_samples(TREE, ends=ENDS)
    assert sample.answer_ids == (10, 11, 13, EOS) and sample.is_trained == (True,) * 4
    assert (sample.id, sample.prompt_ids) == ("p#7", (1, 2))


def test_an_end_of_sequence_that_search_did_not_sample_is_added_once():
    by_id = {s.id: s for s in samples.passing_samples(OTHER, ends=ENDS)}
    assert by_id["p#1"].answer_ids == (10, 11, 12, 13, 14, 15, EOS)


def test_passing_samples_are_the_shortest_first():
    assert [sample.id for sample in samples.passing_samples(OTHER, ends=ENDS)] == ["p#2", "p#1", "p#3"]


def test_an_unsolved_tree_gives_no_sample():
    unsolved = draw((0, (9,), FAIL, "d()"))
    assert samples.passing_samples(unsolved, ends=ENDS) == []
    assert samples.path_preferences(unsolved, ends=ENDS, max_per_problem=1) == []


def test_step_labels_end_steps_at_their_marker_not_at_eos():
    labelled = {label.id: label for label in samples.step_labels(TREE, ends=ENDS)}
    assert sorted(labelled) == ["p#2", "p#5", "p#7", "p#8", "p#9"]
    assert labelled["p#7"].answer_ids == (10, 11, 13) and labelled["p#7"].step_ends == (0, 1, 2)
    assert labelled["p#9"].answer_ids == (10, 11, 15, 16) and labelled["p#9"].step_ends == (0, 1, 3)
    assert labelled["p#9"].soft == (2.5 / 4, pytest.approx(2.5 / 3), 1.0)
    assert labelled["p#9"].hard == (1.0, 1.0, 1.0) and labelled["p#9"].n_leaves == (4, 3, 1)
    assert labelled["p#9"].n_paths == (4, 3, 1)


def test_a_step_whose_leaves_are_all_dead_is_labelled_with_nothing():
    """The steps of labelled paths are those that held-out figures ask about."""
    labelled = {label.id: label for label in samples.step_labels(TREE, ends=ENDS)}
    dead = labelled["p#2"]
    assert (dead.answer_ids, dead.soft, dead.hard, dead.n_leaves) == ((20,), (0.0,), (0.0,), (1,))
    paths = (path_to(TREE.nodes, int(id.removeprefix("p#"))) for id in labelled)
    rows = nodes_of([TREE], ENDS)
    assert len({node.index for path in paths for node in path}) == len(rows) == 7


def test_step_pairs_are_siblings_with_a_margin():
    pairs = samples.step_pairs(TREE, ends=ENDS)
    assert [pair.id for pair in pairs] == ["p#1>2", "p#4>5", "p#7>8", "p#9>8"]
    widest = samples.step_pairs(TREE, ends=ENDS, margin=0.55)
    assert [pair.id for pair in widest] == ["p#1>2", "p#4>5"]
    assert len(samples.step_pairs(TREE, ends=ENDS, max_per_parent=1)) == 3
    seventh = pairs[2]
    assert (seventh.prefix_ids, seventh.chosen_ids, seventh.rejected_ids) == ((1, 2, 10, 11), (13,), (14,))
    assert (seventh.chosen_value, seventh.rejected_value) == (1.0, 0.5)


def test_dead_siblings_are_not_paired():
    tree = draw((0, (1,), PASS, "a()"), (0, (2,), None, "malformed"))
    assert samples.step_pairs(tree, ends=ENDS) == []


def test_sibling_preferences_are_step_pairs_by_the_leaves_values():
    pairs, preferences = samples.step_pairs(TREE, ends=ENDS), samples.sibling_preferences(TREE, ends=ENDS)
    assert [p.prompt_ids for p in preferences] == [p.prefix_ids for p in pairs]
    assert preferences[2].margin == 0.5
    part = draw((0, (1,), HALF, "a()"), (0, (2,), FAIL, "b()"))
    assert [p.id for p in samples.sibling_preferences(part, ends=ENDS)] == ["p#1>2"]


def test_path_preferences_pair_passing_with_failing_answers():
    pairs = samples.path_preferences(TREE, ends=ENDS, max_per_problem=9)
    assert {pair.id for pair in pairs} == {"p#7>5", "p#7>8"}
    by_id = {pair.id: pair for pair in pairs}
    assert by_id["p#7>8"].chosen_ids == (10, 11, 13, EOS) and by_id["p#7>8"].rejected_ids == (10, 11, 14, EOS)
    assert by_id["p#7>8"].margin == 0.5
    assert samples.path_preferences(TREE, ends=ENDS, max_per_problem=1, seed=3) == samples.path_preferences(
        TREE, ends=ENDS, max_per_problem=1, seed=3
    )


def test_paths_and_children_of_a_tree():
    assert path_ids(TREE.nodes, 9) == (10, 11, 15, 16)
    children = children_of(TREE)
    assert children[0] == [1, 2, 3] and children[4] == [7, 8, 9]
    assert sorted(itertools.chain(*children)) == list(range(1, len(TREE.nodes)))
