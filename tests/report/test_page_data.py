"""Problems and trees as the page holds them: what failed, what passed where, what is left out."""

import made_run
from etils import epath

from o1jax.report import page_data
from o1jax.report.page_data import json_text
from o1jax.report.run_files import RunFiles


def rows(run):
    data = page_data.page_data(RunFiles(run), "self-play")
    return data["problems"], data["trees"]


def test_a_tree_has_every_figure_of_its_nodes(tmp_path):
    _, trees = rows(made_run.whole(tmp_path))
    assert trees["stages"] == ["round_00/search"] and trees["left_out"] == [0] and len(trees["trees"]) == 6
    tree = trees["trees"][0]
    assert tree["parent"] == [-1, 0, 1, 1, 0] and tree["action"] == [0, 1, 3, 3, 0]
    assert tree["visits"] == [2] * 5 and tree["mean"] == [0.5] * 5 and tree["score"] == {1: 0.25}
    assert tree["verdict"] == {2: [True, 2, 2, None, "", ""], 3: [True, 1, 2, 1, "WA", "got 7"]}
    assert tree["tests"] == {1: ["3", "4"]} and list(tree["error"]) == [4]


def test_a_tree_of_ten_thousand_nodes_is_whole(tmp_path):
    run = epath.Path(tmp_path)
    made_run.problems(run, "pool", 1)
    made_run.search(run, "search", [made_run.tree("pool/0", large(10_000))])
    _, trees = rows(run)
    assert len(trees["trees"][0]["parent"]) == 10_000


def test_trees_beyond_the_cap_are_left_out_and_counted(tmp_path, monkeypatch):
    monkeypatch.setattr(page_data, "MOST_TREE_BYTES", 20_000)
    run = epath.Path(tmp_path)
    made_run.problems(run, "pool", 40)
    made_run.search(run, "search", [made_run.tree(f"pool/{k}") for k in range(40)])
    _, trees = rows(run)
    assert 0 < len(trees["trees"]) < 40 and trees["left_out"] == [40 - len(trees["trees"])]
    assert sum(len(json_text(tree)) for tree in trees["trees"]) < 21_000


def test_a_tree_that_is_too_large_alone_is_cut_after_its_first_nodes(tmp_path, monkeypatch):
    monkeypatch.setattr(page_data, "MOST_TREE_BYTES", 20_000)
    run = epath.Path(tmp_path)
    made_run.search(run, "search", [made_run.tree("pool/0", large(2_000))])
    tree = rows(run)[1]["trees"][0]
    assert tree["nodes"] == 2_000 and 0 < len(tree["parent"]) < 2_000 and len(json_text(tree)) < 21_000


def test_trees_are_spread_over_difficulties_and_outcomes(tmp_path, monkeypatch):
    monkeypatch.setattr(page_data, "MOST_TREE_BYTES", 6_000)
    run = epath.Path(tmp_path)
    made_run.problems(run, "pool", 12)
    unsolved = (made_run.node(0, -1, "", 0), made_run.node(1, 0, "x", value=0.0, error="malformed"))
    trees = [made_run.tree(f"pool/{k}", unsolved if k >= 6 else None) for k in range(12)]
    made_run.search(run, "search", trees)
    shown = rows(run)[1]["trees"]
    assert {(int(t["problem"][5:]) % 2, bool(t["verdict"])) for t in shown} == {
        (0, 0),
        (0, 1),
        (1, 0),
        (1, 1),
    }


def test_problems_have_what_passed_by_stage(tmp_path):
    problems, _ = rows(made_run.whole(tmp_path))
    assert problems["stages"] == [
        "warm_up_evaluate", "round_00/evaluate", "round_00/search", "compare/sampling/round_00/evaluate"
    ]  # fmt: skip
    assert problems["own"] == [0, 1, 2]
    by_id = {row[0]: row for row in problems["rows"]}
    assert len(by_id) == 14 and by_id["held_out/0"][1:3] == ["held_out", "rung 1"]
    assert by_id["held_out/2"][4] == [[0, 1, 4], [1, 4, 4], [3, 4, 4]] and by_id["pool/0"][4] == [[2, 1, 2]]


def test_problems_that_nothing_was_tried_on_are_left_out_first(tmp_path, monkeypatch):
    monkeypatch.setattr(page_data, "MOST_PROBLEM_BYTES", 1_500)
    run = epath.Path(tmp_path)
    made_run.problems(run, "pool", 30)
    made_run.search(run, "search", [made_run.tree("pool/29")])
    problems, _ = rows(run)
    assert problems["rows"][0][0] == "pool/29" and problems["left_out"] == 30 - len(problems["rows"]) > 0


def large(count):
    """A root with many steps, each of which has one below it."""
    made = [made_run.node(0, -1, "", 0)]
    made += [made_run.node(k, 0 if k % 2 else k - 1, f"step {k} " * 20) for k in range(1, count)]
    return tuple(made)
