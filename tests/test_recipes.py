"""The recipes hand every stage what it reads, and a page that it accepts: without running one."""

import importlib
import importlib.util
import json
import pathlib

import pytest
from etils import epath

from o1jax import self_play
from o1jax.stages import run, settings

CONFIGS = pathlib.Path(__file__).parents[1] / "configs"


@pytest.fixture
def played(monkeypatch, tmp_path):
    """(recipe, page) -> the stages that it ran: place -> (name, settings, inputs)."""

    def play(recipe, page, variant, **changes):
        spec = importlib.util.spec_from_file_location(page, CONFIGS / f"{page}.py")
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        config = json.loads(module.get_config(variant).to_json_best_effort()) | changes
        stages = {}

        def note(out, spec):
            place = str(out.relative_to(epath.Path(tmp_path)))
            parsed = settings.parse(
                importlib.import_module(run.STAGES[spec.stage]).Settings, spec.config, spec.stage
            )
            assert place not in stages
            stages[place] = spec.stage, parsed, dict(spec.inputs)

        monkeypatch.setattr(self_play, "run_in_child", note)
        recipe(self_play.Recipe(epath.Path(tmp_path), config, 0))
        return stages, str(tmp_path)

    return play


def test_a_generator_in_each_form_is_trained_and_measured_in_that_form(played):
    stages, root = played(self_play.test_generator, "tcg", "ladder", policy="given")
    assert "warm_up" not in stages
    for place, (name, parsed, inputs) in stages.items():
        if name in ("tcg_sft", "tcg_dpo"):
            assert parsed.cases.traced == ("traced" in place) and inputs["problems"] == f"{root}/problems/tcg"
        if name == "tcg_dpo":
            assert parsed.rejected == place.split("/")[-1]
            assert inputs["tcg"] == f"{root}/{place.rsplit('/', 1)[0]}/sft"
        if name == "evaluate_tcg":
            assert parsed.write.traced == ("traced" in place) and inputs["policy"] == "given"
            assert inputs["tcg"] == f"{root}/{place.removesuffix('_evaluate')}"
            assert inputs["problems"] == f"{root}/problems/held_out"
    assert stages["tcg/plain/sft"][2].keys() == {"problems"}  # from nothing
    assert stages["tcg/selection"][2]["tcg"] == f"{root}/tcg/traced/sampled"
    stages, _ = played(self_play.test_generator, "tcg", "deepseek-coder-1.3b")
    assert stages["tcg/plain/sft"][2]["policy"] == "weights/deepseek-coder-1.3b-instruct"


def test_a_reward_model_of_each_kind_learns_from_the_pool_and_is_tested_on_the_held_out(played):
    stages, root = played(self_play.process_rewards, "prm", "ladder")
    for objective in ("soft", "hard", "pair"):
        name, parsed, inputs = stages[f"prm/{objective}"]
        assert name == "prm" and parsed.objective == objective
        assert inputs == {
            "policy": f"{root}/warm_up",
            "found_0": f"{root}/pool_trees",
            "held_out": f"{root}/held_out_trees",
        }
    assert stages["prm/evaluate"][2]["prm"] == f"{root}/prm/soft"
    stages, _ = played(
        self_play.process_rewards, "prm", "ladder", policy="p", pool_trees="a", held_out_trees="b"
    )
    assert set(stages) == {"problems/held_out", "prm/soft", "prm/hard", "prm/pair", "prm/evaluate"}
