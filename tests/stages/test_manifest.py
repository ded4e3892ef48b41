"""The stage protocol: finished is not run again, another config is refused, damage is named."""

import dataclasses

import pytest
from etils import epath

from o1jax.records import InputError
from o1jax.stages import manifest
from o1jax.stages.manifest import StageResult, StageSpec

SPEC = StageSpec("search", {"rollouts": 12, "engine": {"slots": 4}}, seed=3, inputs={})


def finished(out, spec=SPEC, figures=None):
    assert manifest.begin(out, spec) is None
    return manifest.finish(out, spec, StageResult(figures or {"solved": 2}, {"seconds": 1.5}))


def test_a_finished_stage_is_found_and_not_begun_again(tmp_path):
    out = epath.Path(tmp_path) / "search"
    written = finished(out)
    assert manifest.begin(out, SPEC) == written


def test_a_stage_killed_before_its_manifest_is_begun_again(tmp_path):
    out = epath.Path(tmp_path) / "search"
    assert manifest.begin(out, SPEC) is None
    assert manifest.begin(out, SPEC) is None


@pytest.mark.parametrize("is_finished", [True, False])
@pytest.mark.parametrize(
    "change, words",
    [
        ({"seed": 4}, "seed was 3, now 4"),
        ({"config": {"rollouts": 6, "engine": {"slots": 4}}}, "config.rollouts was 12, now 6"),
        ({"config": {"rollouts": 12, "engine": {"slots": 8}}}, "config.engine.slots was 4, now 8"),
    ],
)
def test_a_directory_from_another_spec_is_refused_by_key(tmp_path, is_finished, change, words):
    out = epath.Path(tmp_path) / "search"
    finished(out) if is_finished else manifest.begin(out, SPEC)
    with pytest.raises(InputError, match=words):
        manifest.begin(out, dataclasses.replace(SPEC, **change))


def test_a_changed_input_is_refused(tmp_path):
    root = epath.Path(tmp_path)
    finished(root / "a")
    finished(root / "b", figures={"solved": 3})
    spec = dataclasses.replace(SPEC, inputs={"policy": str(root / "a")})
    finished(root / "c", spec)
    with pytest.raises(InputError, match="inputs.policy"):
        manifest.begin(root / "c", dataclasses.replace(SPEC, inputs={"policy": str(root / "b")}))


def test_hash_ignores_timings_but_not_figures(tmp_path):
    root = epath.Path(tmp_path)
    finished(root / "a")
    manifest.begin(root / "b", SPEC)
    manifest.finish(root / "b", SPEC, StageResult({"solved": 2}, {"seconds": 99.0}))
    finished(root / "c", figures={"solved": 3})
    assert manifest.manifest_hash(root / "a") == manifest.manifest_hash(root / "b")
    assert manifest.manifest_hash(root / "a") != manifest.manifest_hash(root / "c")


@pytest.mark.parametrize(
    "made, words",
    [
        ((), "nothing is there"),
        (("problems.jsonl",), "a file; prepare it first: python launch/prepare.py"),
        (("spec.json",), "not complete; run it again"),
        (
            ("search/manifest.json", "warm_up/manifest.json"),
            "a run; wanted one of its stages, as search, warm_up",
        ),
        (("other.txt",), "wanted the directory of a finished stage"),
    ],
)
def test_what_is_there_instead_of_an_input_is_said(tmp_path, made, words):
    given = tmp_path / "given"
    for name in made:
        path = given if name == "problems.jsonl" else given / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("{}")
    spec = dataclasses.replace(SPEC, inputs={"found_0": str(given)})
    with pytest.raises(InputError, match=f"inputs.found_0: {given}: .*{words}"):
        manifest.begin(epath.Path(tmp_path) / "out", spec)


def test_an_unfinished_input_and_a_damaged_manifest_are_named(tmp_path):
    root = epath.Path(tmp_path)
    manifest.begin(root / "none", SPEC)
    with pytest.raises(InputError, match="not complete"):
        manifest.begin(root / "a", dataclasses.replace(SPEC, inputs={"policy": str(root / "none")}))
    finished(root / "b")
    (root / "b" / "manifest.json").write_text('{"stage": "sea')
    with pytest.raises(InputError, match="damaged"):
        manifest.begin(root / "b", SPEC)
