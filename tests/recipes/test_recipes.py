"""The recipes hand every stage what it reads, and a page that it accepts: without running one."""

import importlib
import importlib.util
import json
import pathlib

import pytest
from etils import epath

from o1jax.recipes import arms, recipe, rl_ablation, self_play, single_steps
from o1jax.records import InputError
from o1jax.stages import manifest, run, settings

CONFIGS = pathlib.Path(__file__).parents[2] / "configs"


@pytest.fixture
def played(monkeypatch, tmp_path):
    """(recipe, page) -> the stages that it ran: path -> (name, settings, inputs)."""

    def play(function, page, variant, **changes):
        spec = importlib.util.spec_from_file_location(page, CONFIGS / f"{page}.py")
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        config = json.loads(module.get_config(variant).to_json_best_effort()) | changes
        stages = {}

        def note(out, spec):
            path = str(out.relative_to(epath.Path(tmp_path)))
            parsed = settings.parse(run.module_of(spec.stage).Settings, spec.config, spec.stage)
            made = spec.stage, parsed, dict(spec.inputs)
            assert stages.setdefault(path, made) == made  # or it is done already
            out.mkdir(parents=True, exist_ok=True)
            figures = {
                "generated_tokens": 1000 + len(stages),
                "samples": 100,
                "trained_tokens": 500,
                "next_update": len(stages),
            }
            (out / "manifest.json").write_text(json.dumps({"figures": figures}))

        monkeypatch.setattr(recipe, "run_in_child", note)
        monkeypatch.setattr(recipe.Recipe, "report", lambda self: {})  # of made-up figures
        monkeypatch.setattr(recipe.Recipe, "check_given", lambda self: None)  # made-up too
        function(recipe.Recipe(epath.Path(tmp_path), config, 0))
        return stages, str(tmp_path)

    return play


def test_a_generator_in_each_form_is_trained_and_measured_in_that_form(played):
    stages, root = played(single_steps.test_generator, "tcg", "ladder", policy="given")
    assert "warm_up" not in stages
    for path, (name, parsed, inputs) in stages.items():
        if name in ("tcg_sft", "tcg_dpo"):
            assert parsed.cases.traced == ("traced" in path) and inputs["problems"] == f"{root}/problems/tcg"
        if name == "tcg_dpo":
            arm = path.split("/")[-1]
            control = arm == "true_line"  # SFT on the lines that first_wrong_line prefers
            assert parsed.rejected == ("first_wrong_line" if control else arm)
            assert parsed.objective == ("sft" if control else "dpo")
            assert inputs["tcg"] == f"{root}/{path.rsplit('/', 1)[0]}/sft"
        if name == "evaluate_tcg":
            assert parsed.write.traced == ("traced" in path) and inputs["policy"] == "given"
            assert inputs["tcg"] == f"{root}/{path.removesuffix('_evaluate')}"
            assert inputs["problems"] == f"{root}/problems/held_out"
    assert stages["tcg/plain/sft"][2].keys() == {"problems"}  # from nothing
    assert stages["tcg/selection"][2]["tcg"] == f"{root}/tcg/traced/near_miss"
    stages, _ = played(single_steps.test_generator, "tcg", "deepseek-coder-1.3b")
    assert stages["tcg/plain/sft"][2]["policy"] == "weights/deepseek-coder-1.3b-instruct"


def test_a_reward_model_of_each_kind_learns_from_the_pool_and_is_tested_on_the_held_out(played):
    stages, root = played(single_steps.process_rewards, "prm", "ladder")
    for objective in ("soft", "hard", "pair"):
        name, parsed, inputs = stages[f"prm/{objective}"]
        assert name == "prm" and parsed.objective == objective
        assert inputs == {
            "policy": f"{root}/warm_up",
            "found_0": f"{root}/pool_trees",
            "held_out": f"{root}/held_out_trees",
        }
    assert stages["prm/evaluate"][2]["prm"] == f"{root}/prm/hard"
    stages, _ = played(
        single_steps.process_rewards,
        "prm",
        "ladder",
        policy="p",
        pool_trees="a",
        more_trees="b",
        held_out_trees="c",
    )
    assert set(stages) == {"problems/held_out", "prm/soft", "prm/hard", "prm/pair", "prm/evaluate"}
    assert stages["prm/soft"][2] == {"policy": "p", "found_0": "a", "found_1": "b", "held_out": "c"}


def test_a_round_of_self_play_takes_all_steps_from_what_the_one_before_left(played):
    steps = ("policy_sft", "prm", "policy_rl", "policy_dpo", "tcg_adversarial")
    stages, root = played(self_play.play, "self_play", "demo", steps=steps)
    assert stages["tcg/dpo"][2] == {"tcg": f"{root}/tcg/sft", "problems": f"{root}/problems/tcg"}
    assert stages["tcg/tests"][2] == {"tcg": f"{root}/tcg/dpo", "problems": f"{root}/problems/pool"}
    assert stages["problems/audit"][2] == {"problems": f"{root}/tcg/tests"}
    at, before = f"{root}/round_01", f"{root}/round_00"
    trees = {"found_0": f"{before}/search", "found_1": f"{at}/search"}
    found = [f"{of}/{stage}" for of in (before, at) for stage in ("scout", "search")]
    all_found = {f"found_{k}": stage for k, stage in enumerate(found)}
    inputs = {path.removeprefix("round_01/"): stages[path][2] for path in stages if "round_01" in path}
    tests = f"{before}/tests"  # of the generator's turn
    warm = {"policy": f"{root}/warm_up", "problems": f"{root}/tcg/tests"}
    assert stages["round_00/scout"] == ("sample", stages["round_01/scout"][1], warm)
    assert stages["round_00/search"][2] == warm | {"found_0": f"{before}/scout"}
    left = {"policy": f"{before}/policy_dpo", "problems": tests}
    assert inputs["scout"] == left  # all of the pool
    assert inputs["search"] == left | {f"found_{k}": stage for k, stage in enumerate(found[:3])}
    references = f"{root}/problems/references"
    assert inputs["policy_sft"] == {"policy": f"{before}/policy_dpo", "references": references, **all_found}
    calibrated = {"prm": f"{before}/prm", "calibration": f"{at}/calibration"}
    assert inputs["prm"] == {"policy": f"{before}/policy_dpo", **calibrated, **trees}
    assert inputs["calibration"] == left | {"problems": f"{root}/problems/calibration"}
    given = {"prm": f"{at}/prm", "audit": f"{root}/problems/audit", "scout": f"{at}/search"}
    assert inputs["policy_rl"] == {"policy": f"{at}/policy_sft", "problems": tests, **given}
    assert stages["round_01/policy_rl"][1].first_update > stages["round_00/policy_rl"][1].first_update == 0
    assert inputs["policy_dpo"] == {"policy": f"{at}/policy_rl", "found_0": f"{at}/search"}
    newest = {"found_0": f"{at}/search", "problems": f"{root}/problems/pool"}
    assert inputs["tcg_adversarial"] == {"tcg": f"{before}/tcg_adversarial", **newest}
    assert inputs["evaluate"]["policy"] == f"{at}/policy_dpo"


def test_longer_self_play_replays_references_and_every_search_so_far(played):
    stages, root = played(self_play.play, "self_play", "ladder")
    found = [f"{root}/round_0{k}/{stage}" for k in (0, 1) for stage in ("scout", "search")]
    searches = {f"found_{k}": stage for k, stage in enumerate(found)}
    name, parsed, inputs = stages["round_01/policy_rl"]
    assert name == "policy_rl" and parsed.replay.examples == 64
    replayed = {name: at for name, at in inputs.items() if name.startswith(("found_", "references"))}
    assert replayed == {"references": f"{root}/problems/references", **searches}


def test_self_play_restarts_the_reward_model_if_configured_and_refuses_what_it_cannot_do(played):
    stages, root = played(self_play.play, "self_play", "demo", prm_start="restart")
    assert "prm" not in stages["round_01/prm"][2]
    with pytest.raises(InputError, match="prm_start: saw 'anew', wanted 'continue' or 'restart'"):
        played(self_play.play, "self_play", "demo", prm_start="anew")
    with pytest.raises(InputError, match="needs a generator"):
        played(self_play.play, "self_play", "search", steps=("tcg_adversarial",))
    with pytest.raises(InputError, match=r"find: saw \['sample'\] without 'search', which prm learns from"):
        played(self_play.play, "self_play", "demo", find=["sample"])
    with pytest.raises(InputError, match="steps: saw 'sft', wanted policy_dpo, "):
        played(self_play.play, "self_play", "search", steps=("sft",))


def test_failing_answers_are_valued_by_the_reward_model_and_bare_prompts_get_their_questions(played):
    page = {"train_tokens": 1000, "prompt": "bare", "progress": {"weight": 0.5}}
    steps = ("prm", "policy_sft")
    stages, root = played(self_play.play, "self_play", "demo", steps=steps, policy_sft=page)
    at = f"{root}/round_01"
    name, parsed, inputs = stages["round_01/policy_sft"]
    assert inputs["prm"] == f"{at}/prm" and inputs["problems"] == f"{root}/tcg/tests"
    plain = played(self_play.play, "self_play", "demo", steps=steps)[0]["round_01/policy_sft"][2]
    assert not {"prm", "problems"} & plain.keys()


def test_a_trained_model_learns_without_the_examples_that_it_was_sampled_with(played):
    stages, root = played(self_play.play, "self_play", "qwen2.5-coder-1.5b-cpu", policy="qwen.gguf")
    name, parsed, inputs = stages["round_00/policy_sft"]
    assert parsed.prompt == "bare" and parsed.train.lora.rank == 16
    found = {"found_0": f"{root}/round_00/sample", "problems": f"{root}/problems/pool"}
    assert inputs == {"policy": "qwen.gguf", **found}
    assert stages["round_00/sample"][1].sample.few_shot == 2
    shown = {path: stage[1].sample.few_shot for path, stage in stages.items() if stage[0] == "evaluate"}
    pages = {"evaluate": 0, "evaluate_few_shot": 2}
    assert shown == {f"{at}{page}": n for at in ("start_", "round_00/") for page, n in pages.items()}


def test_search_alone_and_the_arms_beside_it(played):
    stages, root = played(self_play.play, "self_play", "search")
    assert not any(name in ("prm", "policy_rl", "tcg_sft") for name, _, _ in stages.values())
    sample = stages["compare/sampling/round_01/sample"][2]
    assert [sample[f"match_{k}"] for k in (0, 1)] == [
        f"{root}/round_01/{stage}" for stage in ("scout", "search")
    ]
    assert sample["policy"] == f"{root}/compare/sampling/round_00/policy_sft"
    assert stages["compare/more_warm_up/round_00/policy_sft"][2].keys() == {"policy", "references"}
    assert (
        stages["compare/pool_references/round_00/policy_sft"][2]["pool_references"] == f"{root}/problems/pool"
    )


def test_self_play_from_given_weights_warms_nothing_up(played):
    stages, root = played(self_play.play, "self_play", "qwen2.5-coder-7b")
    policy = "weights/qwen2.5-coder-7b-instruct"
    assert "warm_up" not in {name for name, _, _ in stages.values()}
    assert stages["start_evaluate"][2]["policy"] == stages["round_00/search"][2]["policy"] == policy
    assert stages["tcg/sft"][2]["policy"] == "weights/deepseek-coder-1.3b-instruct"
    assert stages["tcg/dpo_evaluate"][2].keys() == {"tcg", "problems"}
    assert stages["round_00/policy_sft"][2].keys() == {"policy", "found_0", "found_1"}
    rl = stages["round_01/policy_rl"][2]
    found = {f"found_{k}" for k in range(4)}
    assert rl.keys() == {"policy", "problems", "prm", *found}  # which are replayed
    assert stages["round_01/search"][2] == {
        "policy": f"{root}/round_00/policy_rl",
        "problems": f"{root}/tcg/tests",
        **{f"found_{k}": rl[f"found_{k}"] for k in range(3)},
    }
    with pytest.raises(InputError, match="more_warm_up trains on the warm-up's references"):
        played(self_play.play, "self_play", "search", policy="given")


def test_every_arm_of_reinforcement_gets_the_tokens_of_search_in_the_same_round(played):
    given = {"policy": "p", "references_from": "r", "pool_trees": "a", "more_trees": "b"}
    stages, root = played(rl_ablation.reinforcement, "rl", "ladder", **given)
    assert stages["prm/start"][2] == {"policy": "p", "found_0": "a", "found_1": "b"}
    arms = {path.split("/")[1] for path in stages if path.startswith("compare/")}
    assert {"search", "sampling", "dpo", "rl_outcome", "rl_process", "rl_linear", "loop"} <= arms
    for k, previous in ((0, None), (1, "compare/{arm}/round_00/{last}")):
        searched = figures_of(root, f"compare/search/round_0{k}/search")["generated_tokens"]
        for arm in arms:
            at, last = f"compare/{arm}/round_0{k}", LAST.get(arm, "policy_rl")
            name, parsed, inputs = stages[f"{at}/{last}"]
            assert name == last
            start = f"{root}/{previous.format(arm=arm, last=last)}" if previous else "p"
            first = f"{at}/search" if arm.split("_")[0] in ("loop", "search", "dpo") else None
            first = f"compare/sampling/round_0{k}/sample" if arm == "sampling" else first
            assert stages[first][2]["policy"] == start if first else inputs["policy"] == start
            assert stages[f"{at}/evaluate"][2]["policy"] == f"{root}/{at}/{last}"
            if arm.startswith("rl_"):
                assert (parsed.generated_tokens, parsed.trained_tokens) == (searched, 500)
                assert inputs["prm"] == f"{root}/prm/start"
                assert inputs["references"] == "r" and "found_0" not in inputs  # what is replayed
            if last == "policy_sft":
                assert inputs["references"] == "r"
            if arm == "sampling":
                assert stages[first][2]["match_0"] == f"{root}/compare/search/round_0{k}/search"
    loop = stages["compare/loop/round_01/policy_rl"][1]
    used = figures_of(root, "compare/loop/round_01/search")["generated_tokens"]
    assert loop.generated_tokens == max(1, searched - used)
    assert loop.trained_tokens == 125  # of 500: the page gives SFT three quarters
    assert loop.first_update == figures_of(root, "compare/loop/round_00/policy_rl")["next_update"]
    replayed = stages["compare/loop/round_01/policy_rl"][2]
    assert [replayed[f"found_{k}"] for k in (0, 1)] == [
        f"{root}/compare/loop/round_0{k}/search" for k in (0, 1)
    ]
    assert stages["compare/loop/round_01/prm"][2]["prm"] == f"{root}/compare/loop/round_00/prm"
    assert stages["compare/loop/round_00/policy_sft"][1].train_tokens == 375


def test_one_run_of_policy_gradient_has_the_tokens_of_all_rounds_if_configured(played):
    stages, root = played(rl_ablation.reinforcement, "rl", "ladder_long", policy="p", prm_from="prm")
    generated = [figures_of(root, f"compare/search/round_0{k}/search")["generated_tokens"] for k in range(5)]
    for arm in ("rl_outcome", "rl_linear", "rl_replay"):
        (run,) = (path for path in stages if path.startswith(f"compare/{arm}/") and "rl" in stages[path][0])
        assert run == f"compare/{arm}/round_04/policy_rl"
        name, parsed, inputs = stages[run]
        assert (parsed.generated_tokens, parsed.trained_tokens) == (sum(generated), 5 * 500)
        assert inputs["policy"] == "p" and parsed.replay.examples == 64
    at = "compare/loop/round_04"
    assert [path for path in stages if path.startswith("compare/loop/")] == [
        f"{at}/{stage}" for stage in ("prm", "policy_rl", "evaluate")
    ]
    loop, inputs = stages[f"{at}/policy_rl"][1:]
    assert (loop.generated_tokens, loop.trained_tokens) == (sum(generated[3:]), 2 * 500)
    searches = {f"found_{k}": f"{root}/compare/search/round_0{k}/search" for k in range(3)}
    searcher, searched = (f"{root}/compare/search/round_0{k}/policy_sft" for k in (1, 2))
    assert stages[f"{at}/prm"][2] == {"policy": searcher, "prm": "prm", **searches}
    assert inputs["policy"] == searched and inputs["prm"] == f"{root}/{at}/prm"
    assert {name: path for name, path in inputs.items() if name.startswith("found_")} == searches


def test_the_loop_at_once_needs_rounds_that_search_and_rounds_that_do_not(played):
    with pytest.raises(InputError, match=r"arms\.loop\.searched_rounds: saw 3 with rounds 3; wanted"):
        played(rl_ablation.reinforcement, "rl", "ladder_long", policy="p", prm_from="prm", rounds=3)


ALL_ARMS = ("uct", "sampling", "references", "scout_vine", "progress", "step_mc", "polish", "dpo", "rl_phi")


def test_arms_differ_by_their_steps_from_one_start_and_spend_the_same(played):
    stages, root = played(arms.compare, "arms", "demo", seeds=[3, 4], arms=ALL_ARMS)
    warm, held_out = f"{root}/start/warm_up", f"{root}/start/problems/held_out"
    one = {
        path.removeprefix("seed_3/"): stage for path, stage in stages.items() if path.startswith("seed_3/")
    }
    at = f"{root}/seed_3/compare"
    budget = figures_of(root, "seed_3/compare/uct/round_00/search")["generated_tokens"]
    assert {f"seed_4/{path}" for path in one} < stages.keys()
    for arm in ALL_ARMS:
        trained = [path for path in one if path.startswith(f"compare/{arm}/") and "policy_" in path]
        first, last = (one[trained[i]][2] for i in (0, -1))
        assert first["policy"] == warm
        assert one[f"compare/{arm}/round_00/evaluate"][2] == {
            "policy": f"{root}/seed_3/{trained[-1]}",
            "problems": held_out,
        }
        limits = ("trained_tokens" if "policy_rl" in path else "train_tokens" for path in trained)
        asked = (vars(one[path][1])[limit] for path, limit in zip(trained, limits, strict=True))
        assert sum(asked) == 300_000
        if arm in ("scout_vine", "progress", "step_mc", "dpo"):
            found = {"found_1": f"{at}/scout_vine/round_00/search"}
            found["found_0"] = found["found_1"] if arm == "dpo" else f"{at}/scout_vine/round_00/scout"
            assert found.items() <= {"found_1": found["found_1"], **first}.items()
    assert one["compare/sampling/round_00/sample"][2]["match_0"] == f"{at}/uct/round_00/search"
    place = "compare/scout_vine/round_00"
    scout, search, rest = (one[f"{place}/{step}"][1] for step in ("scout", "search", "rest"))
    of_scout, of_search = (
        figures_of(root, f"seed_3/{place}/{step}")["generated_tokens"] for step in ("scout", "search")
    )
    assert scout.draw.problems == round(0.4 * budget / 93) and search.search.algorithm == "vine"
    assert search.draw.problems == max(1, round((0.9 * budget - of_scout) / 1000))
    assert rest.draw.problems == max(1, round((budget - of_scout - of_search) / (of_scout / 100)))
    assert "prm" not in one["compare/step_mc/round_00/policy_sft"][2]
    prm = f"{at}/progress/round_00/prm"
    assert one["compare/progress/round_00/policy_sft"][2]["prm"] == prm
    assert one["compare/progress/round_00/prm"][2]["policy"] == warm
    rl, inputs = one["compare/rl_phi/round_00/policy_rl"][1:]
    spent = figures_of(root, "seed_3/compare/rl_phi/round_00/scout")["generated_tokens"]
    assert inputs["prm"] == prm and rl.generated_tokens == max(1, budget - spent)
    assert inputs["found_0"] == f"{at}/rl_phi/round_00/scout"


def test_arms_that_no_page_describes_or_whose_budget_is_not_there_are_refused(played):
    with pytest.raises(InputError, match="arms: saw 'vine', wanted some of references, uct, sampling, "):
        played(arms.compare, "arms", "demo", arms=["uct", "vine"])
    with pytest.raises(InputError, match="arms: saw 'sampling' first, wanted 'uct'"):
        played(arms.compare, "arms", "demo", arms=["sampling", "uct"])


@pytest.mark.parametrize("setting", ["policy", "references_from", "prm_from", "pool_trees", "more_trees"])
def test_a_directory_that_is_not_there_is_refused_before_anything_runs(setting, monkeypatch, tmp_path):
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "manifest.json").write_text(json.dumps(dict.fromkeys(SPEC, "")))
    there, missing = str(tmp_path / "there"), str(tmp_path / "missing")
    given = {"policy": there, "prm_from": "", "more_trees": "", setting: missing}
    if setting == "more_trees":
        given[setting] = f"{there},{missing}"
    with pytest.raises(InputError, match=f"--config.{setting}: {missing}"):
        recipe.Recipe(epath.Path(tmp_path), given, 0).check_given()
    recipe.Recipe(epath.Path(tmp_path), {**given, setting: there}, 0).check_given()


def test_reinforcement_that_warms_up_itself_trains_on_those_references(played):
    stages, root = played(rl_ablation.reinforcement, "rl", "ladder")
    wanted = f"{root}/warm_up_problems/references"
    assert stages["warm_up"][2]["references"] == wanted
    assert stages["compare/search/round_00/policy_sft"][2]["references"] == wanted


SPEC = ("stage", "config", "seed", "inputs", "figures")
LAST = {"search": "policy_sft", "sampling": "policy_sft", "dpo": "policy_dpo"}


def figures_of(root, path):
    return json.loads((pathlib.Path(root) / path / "manifest.json").read_text())["figures"]


def test_the_summary_and_the_page_are_written_after_every_stage_that_ran(monkeypatch, tmp_path):
    def finish(out, spec):
        if manifest.begin(out, spec) is None:
            manifest.finish(out, spec, manifest.StageResult({"trained_tokens": 7}, {"seconds": 1.0}))

    monkeypatch.setattr(recipe, "run_in_child", finish)
    run = recipe.Recipe(epath.Path(tmp_path), {"warm_up": {}}, 0)
    pages = [tmp_path / "report.html", tmp_path / "summary.json"]
    run.stage("warm_up", "warm_up")
    assert "1 stages finished" in pages[0].read_text()
    assert json.loads(pages[1].read_text())["totals"]["trained_tokens"] == 7
    for page in pages:
        page.unlink()
    run.stage("warm_up", "warm_up")  # is finished already
    assert not any(page.exists() for page in pages)
    run.stage("warm_up", "again", page="warm_up")
    assert all(page.exists() for page in pages)
