"""A run's files: what is damaged or missing is named, and the rest is read."""

import json

import made_run
import pytest
from etils import epath

from o1jax.report.run_files import RunFiles


@pytest.fixture
def run(tmp_path):
    return made_run.whole(tmp_path / "run")


def named(files, part):
    return [fault for fault in files.faults if part in fault]


def test_a_whole_run_has_no_faults(run):
    files = RunFiles(run)
    assert not files.faults and not files.unfinished and len(files.manifests) == 10


def test_stages_come_in_the_order_of_a_recipe(run):
    paths = list(RunFiles(run).stages)
    order = ["problems/pool", "warm_up", "warm_up_evaluate", "tcg/dpo_evaluate", "round_00/search"]
    assert [path for path in paths if path in order] == order and paths[-1].startswith("compare/")


def test_a_damaged_manifest_is_named_and_its_stage_is_not_finished(run):
    (run / "warm_up" / "manifest.json").write_text('{"stage": "warm_')
    files = RunFiles(run)
    assert named(files, "warm_up/manifest.json") and files.unfinished == ["warm_up"]
    assert "round_00/evaluate" in files.manifests


@pytest.mark.parametrize("manifest", [[], {}, {"stage": "x", "figures": 3, "timings": {"seconds": 1}}])
def test_a_manifest_of_another_shape_is_named(run, manifest):
    (run / "warm_up" / "manifest.json").write_text(json.dumps(manifest))
    assert named(RunFiles(run), "warm_up/manifest.json")


def test_a_stage_without_any_record_is_named(run):
    for name in ("manifest.json", "spec.json"):
        (run / "round_00/search" / name).unlink()
    files = RunFiles(run)
    assert named(files, "round_00/search") and "round_00/search" not in files.stages


def test_a_torn_line_of_metrics_is_named_by_its_number(run):
    path = run / "warm_up" / "fit" / "metrics.jsonl"
    path.write_text('{"step": 1, "loss": 2}\n[3]\n\n{"step": 3, "lo')
    files = RunFiles(run)
    assert files.json_lines(path) == [{"step": 1, "loss": 2}]
    assert named(files, "line 2") and named(files, "line 4") and len(files.faults) == 2


def test_a_damaged_parquet_file_is_named_once_and_the_others_are_read(run):
    trees = run / "round_00/search" / "trees"
    (trees / "a.parquet").write_bytes(b"PAR1 and then nothing")
    files = RunFiles(run)
    for _ in range(2):
        assert len(list(files.tables(trees, ("problem_id",)))) == 1
    assert len(files.faults) == 1 and named(files, "trees/a.parquet")


def test_a_parquet_file_of_something_else_is_named(run):
    files = RunFiles(run)
    assert not list(files.tables(run / "round_00/search" / "trees", ("no_such",)))
    assert named(files, "no column 'no_such'")


def test_an_input_is_found_where_it_was_and_where_it_was_moved_to(run, tmp_path):
    pool = RunFiles(run).stages["round_00/search"].input("problems")
    assert RunFiles(run).of_input(pool).path == "problems/pool"
    moved = run.rename(epath.Path(tmp_path) / "moved")
    assert RunFiles(moved).of_input(pool).directory == moved / "problems" / "pool"
    assert RunFiles(moved).of_input("/no/such/place") is None


def test_a_run_that_is_one_stage_is_read(run):
    files = RunFiles(run / "warm_up_evaluate")
    assert list(files.stages) == ["."] and files.stages["."].name == "evaluate"


def test_an_empty_directory_is_a_run_without_stages(tmp_path):
    files = RunFiles(epath.Path(tmp_path))
    assert not files.stages and not files.faults
