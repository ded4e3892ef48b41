"""Lineage: what is listed is what was trained on, and leads to the right tree, node, tests and policy."""

import json
import pathlib
import shutil
import subprocess
import sys

import pytest
from etils import epath
from lineage_run import (
    FAIL,
    IDS,
    OWN,
    PASS,
    PROGRAM,
    STAGES,
    TOKENIZER,
    WRITTEN,
    build,
    problems,
    rollout,
    stage,
    trainer,
    tree_of,
    trees,
)

from o1jax.lineage.text import text
from o1jax.lineage.trace import trace
from o1jax.records import (
    InputError,
    Rollout,
)
from o1jax.rl import draw
from o1jax.rl.rollouts import ReplayedSample, RewardedRollout, replayed_path, rewards_path, rollouts_path
from o1jax.rl.settings import Settings
from o1jax.stages import manifest, provenance
from o1jax.stages.manifest import StageSpec
from o1jax.stages.provenance import Provenance, Source
from o1jax.stages.settings import parse
from o1jax.store import write_records


@pytest.fixture(scope="module")
def house(tmp_path_factory):
    root = epath.Path(tmp_path_factory.mktemp("run").resolve())
    build(root)
    return root


@pytest.fixture(scope="module")
def trained(house, tmp_path_factory):
    return trainer(house, tmp_path_factory)


def samples_of(place, ids=IDS):
    return [sample for id in ids for sample in trace(place, problem=id).samples]


@pytest.mark.parametrize("place, longest", [(place, None) for place in STAGES] + [("sft", 60), ("dpo", 110)])
def test_what_is_listed_is_what_the_stage_trained_on(place, longest, trained):
    out, noted = trained(place, row_length=longest)
    samples = samples_of(out, ("a", "a#1") if "tcg" in place else IDS)
    kept = [sample.id for sample in samples if not sample.left_out]
    assert kept and sorted(kept) == sorted(noted) and len(set(kept)) == len(kept)
    assert (len(samples) > len(kept)) == (longest is not None)
    assert all("longer than a row" in sample.left_out for sample in samples if sample.left_out)
    for sample in (samples[0], samples[-1]):
        assert trace(out, sample=sample.id).samples == (sample,)


def test_a_found_path_leads_to_its_nodes_tests_and_policy(house, trained):
    out, _ = trained("sft")
    (sample,) = trace(out, sample="1/b/2>1#2").samples
    assert (sample.kind, sample.problem_id) == ("found path", "b/2>1")
    (path,) = sample.paths
    assert path.directory == str(house / "round_01/search") and "seed 101" in path.record
    assert path.policy.directory == str(house / "warm_up") and not path.policy.fault
    tree = tree_of("b/2>1", 1)
    assert [step.text for step in path.steps] == [tree.nodes[1].text, tree.nodes[2].text]
    assert [(step.node, step.parent, step.visits, step.value) for step in path.steps] == [
        (1, 0, 1, None),
        (2, 1, 1, 1.0),
    ]
    labels = [(step.label.soft, step.label.mean_value, step.label.n_leaves) for step in path.steps]
    assert labels == [(0.75, 0.75, 2), (1.0, 1.0, 1)]
    assert [step.log_probs for step in path.steps] == [len(tree.nodes[i].token_ids) for i in (1, 2)]
    assert path.verdict == PASS and [judged.status for judged in path.tests] == ["AC", "AC"]
    own, written = path.tests
    assert (own.test, own.origin.kind) == (OWN, "own") and own.origin.directory == str(
        house / "problems/pool"
    )
    assert (written.test, written.origin.kind) == (WRITTEN, "generated")
    assert written.origin.directory == str(house / "tcg")


def test_a_sampled_answer_leads_to_its_rollout(house, trained):
    out, _ = trained("sampled")
    (sample,) = trace(out, sample="0/a#1#1").samples
    (path,) = sample.paths
    assert sample.problem_id == "a#1" and path.directory == str(house / "samples") and "a#1#1" in path.record
    assert [step.action for step in path.steps] == [1, 2, 3] and PROGRAM in path.steps[2].text
    assert path.verdict == PASS and [judged.origin.kind for judged in path.tests] == ["own", "generated"]


def test_a_generators_copy_of_an_own_test_is_its_own_only_where_own_tests_are_kept(house, trained, tmp_path):
    for which, kinds in (("both", ["own", "generated"]), ("generated", ["generated", "generated"])):
        at = epath.Path(tmp_path) / which
        inputs = {"tcg": str(house / "tcg"), "problems": str(house / "problems/pool")}
        stage(at, "tests", "write_tests", problems(OWN, WRITTEN), {"reward_tests": which}, **inputs)
        stage(at, "search", "search", trees(0), policy=str(house / "warm_up"), problems="tests")
        out, config = at / "sft", {"train_tokens": 9}
        places = {"policy": str(house / "warm_up"), "found_0": str(at / "search")}
        manifest.begin(out, StageSpec("policy_sft", config, 0, places))
        source = Source("answer", "found_0", node=2)
        provenance.write(out, [Provenance("0/a#2", "a", "found path", "", "{}", (source,))])
        (sample,) = trace(out, problem="a").samples
        assert [judged.origin.kind for judged in sample.paths[0].tests] == kinds


def test_a_reference_leads_to_its_problems_and_to_no_policy(house, trained):
    out, _ = trained("sft")
    (sample,) = trace(out, sample="a#1/reasoning_0").samples
    (path,) = sample.paths
    assert sample.kind == "reference" and path.directory == str(house / "problems/references")
    assert PROGRAM in path.steps[0].text and path.policy is None
    assert trace(house / "warm_up", sample="a#1/reasoning_0").samples == (sample,)


@pytest.mark.parametrize(
    "place, id, kind, nodes",
    [
        ("dpo", "1/siblings/a#2>3", "preference of siblings", [[1, 2], [1, 3]]),
        ("dpo", "0/paths/a#2>5", "preference of paths", [[1, 2], [4, 5]]),
        ("prm_pair", "1/a#1>4", "steps with pair labels", [[1], [4]]),
        ("prm", "0/a#5", "steps with soft labels", [[4, 5]]),
    ],
)
def test_an_id_holds_the_search_and_the_nodes(place, id, kind, nodes, house, trained):
    settings = {"max_per_problem": 0} if place == "dpo" else {"max_paths_per_problem": 0}
    out, _ = trained(place, **settings)
    (sample,) = trace(out, sample=id).samples
    assert sample.kind == kind
    assert [[step.node for step in path.steps] for path in sample.paths] == nodes
    assert {path.directory for path in sample.paths} == {str(house / f"round_0{id[0]}/search")}
    assert [path.role for path in sample.paths] == (["chosen", "rejected"] if len(nodes) > 1 else ["answer"])


def test_cases_lead_to_their_program(trained):
    out, _ = trained("tcg_dpo")
    sample = trace(out, problem="a#1").samples[0]
    assert sample.facts["program"].strip() == PROGRAM
    chosen, rejected = (path.steps[0].text for path in sample.paths)
    assert chosen != rejected and "Input:\n" in chosen and "Input:\n" in rejected
    assert "shuffled" in sample.paths[1].record


def rewarded_of(rollout, t, scores):
    process, kept = sum(scores), rollout.problem_id == "a"
    reward, alpha = (rollout.reward + process) / 2, 0.5
    return RewardedRollout(
        rollout.id, rollout.problem_id, t, reward, rollout.reward, process, alpha, scores, kept, kept
    )


@pytest.fixture(scope="module")
def played(house, tmp_path_factory):
    """(scores, inputs) -> a policy_rl stage under way: updates 3 and 4 learned from, 5 only rewarded."""

    def play(scores=(), replay=0, **inputs):
        out = epath.Path(tmp_path_factory.mktemp("rl"))
        config = {
            "updates": 9,
            "first_update": 3,
            "sample": {"n": 2, "style": "nano", "top_p": 1.0, "top_k": 0, "temperature": 1.0},
            "engine": {"context": 256},
            "replay": {"examples": replay},
        }
        inputs = {"policy": "warm_up", "problems": "tests", **inputs}
        places = {name: str(house / place) for name, place in inputs.items()}
        manifest.begin(out, StageSpec("policy_rl", config, 0, places))
        settings, inputs = parse(Settings, config, "policy_rl"), {k: epath.Path(v) for k, v in places.items()}
        buffer = draw.replay_buffer(out, settings, inputs, TOKENIZER, 0)
        for t in (3, 4, 5):
            verdicts = {"a": (PASS, FAIL), "a#1": (FAIL, FAIL)}
            rollouts = [
                rollout(p, f"{t}/{p}#{i}", v, t) for p, pair in verdicts.items() for i, v in enumerate(pair)
            ]
            write_records(rollouts_path(out / "rollouts", t), Rollout, rollouts)
            rewarded = [rewarded_of(rollout, t, scores) for rollout in rollouts]
            write_records(rewards_path(out, t), RewardedRollout, rewarded)
            if replay:
                drawn = [ReplayedSample(e.id, t) for e in draw.replay(buffer, replay, 0, t)]
                write_records(replayed_path(out, t), ReplayedSample, drawn)
        (out / "fit").mkdir()
        rows = [json.dumps({"step": t - 2, "update": t}) + "\n" for t in (3, 4)]
        (out / "fit" / "metrics.jsonl").write_text("".join(rows))
        return out

    return play


def test_an_answer_of_the_generator_leads_to_the_programs_that_it_kills(house, trained):
    out, _ = trained("tcg_adversarial")
    (sample,) = trace(out, sample="a#1#1>0").samples
    assert sorted(sample.facts) == ["wrong_program_0", "wrong_program_1"]
    assert all(f"{PROGRAM}  # 0." in program for program in sample.facts.values())
    chosen, rejected = sample.paths
    assert "kills wrong programs 1," in chosen.record and "kills wrong programs none," in rejected.record
    assert chosen.policy.directory == str(house / "warm_up") and chosen.directory == str(out)


def test_what_was_replayed_leads_to_the_updates_that_drew_it(house, played):
    out = played(replay=4, references="problems/references", found_0="round_00/search")
    samples = [sample for sample in trace(out, problem="a").samples if sample.kind != "rollout"]
    assert {sample.kind for sample in samples} == {"found path", "reference"}
    drawn = [sample for sample in samples if not sample.left_out]
    assert {update for sample in drawn for update in sample.facts["updates"].split(", ")} <= {"3", "4"}
    assert all(sample.facts["updates"] == "" for sample in samples if sample.left_out)
    every = [s for id in IDS for s in trace(out, problem=id).samples if s.kind != "rollout"]
    assert sum(len(s.facts["updates"].split(", ")) for s in every if s.facts["updates"]) == 2 * 4


def test_a_rollout_leads_to_its_update_reward_and_policy(house, played):
    out = played()
    samples = trace(out, problem="a").samples
    assert [sample.id for sample in samples] == ["3/a#0", "3/a#1", "4/a#0", "4/a#1"]
    assert [sample.facts["reward"] for sample in samples] == [0.5, 0.0, 0.5, 0.0]
    assert [sample.facts["outcome"] for sample in samples] == [1.0, 0.0, 1.0, 0.0]
    assert "process" not in samples[0].facts
    assert [sample.facts["update"] for sample in samples] == [3, 3, 4, 4]
    assert not any(sample.left_out for sample in samples)
    first, last = samples[0].paths[0], samples[-1].paths[0]
    assert [step.action for step in first.steps] == [1, 2, 3] and first.steps[0].score is None
    assert (first.policy.directory, first.policy_version) == (str(house / "warm_up"), 3)
    assert (last.policy.directory, last.policy_version) == (str(out.resolve()), 4)
    assert [(judged.origin.kind, judged.status) for judged in last.tests] == [
        ("own", "WA"),
        ("generated", "WA"),
    ]
    alike = "the 2 answers of its group do not differ in what keep_groups names"
    assert all(sample.left_out == alike for sample in trace(out, problem="a#1").samples)


def test_a_rollouts_steps_have_the_scores_that_counted(played):
    right, wrong = trace(played((0.25, 0.5, 0.0), prm="warm_up"), problem="a").samples[:2]
    assert [step.score for step in right.paths[0].steps] == [0.25, 0.5, 0.0]
    assert (right.facts["process"], right.facts["alpha"]) == (0.75, 0.5)


def test_the_text_names_every_stage_once_and_the_samples_parts(house, trained):
    out, _ = trained("sft")
    lines = text(trace(out, sample="0/a#2")).splitlines()
    assert lines[0].startswith(f"{out}  (policy_sft, seed 5) dropped_long 0, found 6,")
    assert sum(f"{house}/warm_up  (warm_up" in line for line in lines) == 1
    assert sum(f"{house}/warm_up  (above)" in line for line in lines) == 2
    assert any("(check_problems from given.jsonl" in line for line in lines)
    assert "sample 0/a#2: found path of problem a, trained on" in lines
    assert any("node 2 below 1" in line and "value 1.000" in line for line in lines)
    assert f"      AC   generated test by {house}/tcg: '4 4\\n' -> '8\\n'" in lines
    assert not any("!" in line for line in lines)


@pytest.fixture
def copied(house, trained, tmp_path):
    """A copy of the run, with its SFT in it."""
    out, _ = trained("sft")
    shutil.copytree(house, tmp_path / "copy")
    shutil.copytree(out, tmp_path / "copy" / "round_01" / "sft")
    return epath.Path(tmp_path) / "copy"


@pytest.mark.parametrize("without_places", [False, True])
def test_a_run_that_was_moved_finds_its_stages_by_their_hashes(without_places, house, copied, tmp_path):
    for path in pathlib.Path(copied).glob("**/manifest.json"):
        written = json.loads(path.read_text())
        places = {} if without_places else {name: f"{tmp_path}/gone" for name in written["inputs"]}
        path.write_text(json.dumps({**written, "places": places}))
    lineage = trace(copied / "round_01/sft", sample="1/a#2")
    assert all(place.startswith(str(copied)) for place in (stage.directory for stage in lineage.stages))
    assert len(lineage.stages) == 10 and not any(i.fault for stage in lineage.stages for i in stage.inputs)
    (path,) = lineage.samples[0].paths
    assert path.tests[1].origin.directory == str(copied / "tcg")


def changed(place):
    written = json.loads((place / "manifest.json").read_text())
    (place / "manifest.json").write_text(json.dumps({**written, "figures": {"n": 2}}))


def repointed(copied):
    """The copy's manifests name the copy's own stages."""
    for path in pathlib.Path(copied).glob("**/manifest.json"):
        written = json.loads(path.read_text())
        for name, place in written["places"].items():
            written["places"][name] = str(copied / "/".join(pathlib.Path(place).parts[-2:]))
            if not (epath.Path(written["places"][name]) / "manifest.json").exists():
                written["places"][name] = str(copied / pathlib.Path(place).name)
        path.write_text(json.dumps(written))
    return copied


def test_a_changed_or_missing_input_is_marked_and_the_rest_goes_on(copied):
    root = repointed(copied)
    out = root / "round_01/sft"
    changed(root / "tests")
    (root / "problems/references/manifest.json").unlink()
    lineage = trace(out)
    faults = {(stage.directory, i.name): i.fault for stage in lineage.stages for i in stage.inputs if i.fault}
    assert set(faults) == {
        (str(out), "references"),
        (str(root / "warm_up"), "references"),
        (str(root / "round_00/search"), "problems"),
        (str(root / "again"), "problems"),
    }
    assert faults[str(out), "references"].startswith("MISSING: no manifest.json")
    assert faults[str(root / "again"), "problems"].startswith("CHANGED: its hash was")
    lines = text(lineage).splitlines()
    assert sum(": ! " in line for line in lines) == 4
    assert any("found_1" in line and "! " not in line for line in lines)


def test_a_sample_whose_tests_are_gone_is_traced_without_them(copied):
    root = repointed(copied)
    changed(root / "tests")
    (sample,) = trace(root / "round_01/sft", sample="0/a#2").samples
    assert sample.paths[0].tests == () and "CHANGED" in sample.paths[0].tests_fault
    assert sample.paths[0].verdict == PASS


def test_a_sample_whose_tree_is_gone_or_changed_is_refused_and_the_others_are_not(copied):
    root = repointed(copied)
    out = root / "round_01/sft"
    trees(0, IDS[:2])(root / "round_00/search")
    with pytest.raises(InputError, match="round_00/search: no node b/2>1#2 there any more"):
        trace(out, problem="b/2>1")
    assert trace(out, problem="a").samples
    changed(root / "round_00/search")
    with pytest.raises(InputError, match="input found_0 .*CHANGED"):
        trace(out, problem="a")
    assert trace(out, sample="a/reasoning_0").samples


@pytest.mark.parametrize(
    "place, asked, words",
    [
        ("problems", {}, "no manifest.json and no spec.json"),
        ("nowhere", {}, "nowhere: no manifest.json and no spec.json"),
        ("warm_up", {"sample": "a#2"}, "no sample 'a#2' among those that warm_up trained on"),
        ("warm_up", {"problem": "c"}, "no sample of a problem 'c'"),
        (
            "tcg",
            {"problem": "c"},
            "no provenance.parquet there: .* an earlier o1jax ran it; if so, run it again",
        ),
        ("tests", {"problem": "a"}, "write_tests trains on no samples"),
        ("warm_up", {"problem": "a", "sample": "a"}, "both a sample and a problem"),
    ],
)
def test_bad_input_is_one_line(place, asked, words, house):
    with pytest.raises(InputError, match=words) as error:
        trace(house / place, **asked)
    assert "\n" not in str(error.value)


def test_a_stage_that_has_made_no_samples_yet_is_refused(tmp_path):
    out = epath.Path(tmp_path)
    manifest.begin(out, StageSpec("warm_up", {}, 0, {}))
    with pytest.raises(InputError, match="has not made them yet"):
        trace(out, problem="a")


def test_a_stage_that_makes_its_samples_again_writes_the_same_provenance(trained):
    (first, _), (again, _) = trained("dpo"), trained.__wrapped__("dpo")
    assert first != again and (first / "provenance.parquet").exists()
    assert (first / "provenance.parquet").read_bytes() == (again / "provenance.parquet").read_bytes()


def test_the_script_prints_one_json_object(house, trained):
    out, _ = trained("sft")
    root = pathlib.Path(__file__).parents[2]
    command = [sys.executable, "launch/lineage.py", str(out), "--sample=0/a#2", "--json"]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    lineage = json.loads(done.stdout)
    assert [stage["stage"] for stage in lineage["stages"][:2]] == ["policy_sft", "search"]
    (path,) = lineage["samples"][0]["paths"]
    assert path["policy"]["directory"] == str(house / "warm_up") and path["verdict"]["compiled"]
    assert [test["origin"]["kind"] for test in path["tests"]] == ["own", "generated"]
