"""Every config page builds: its keys are its stages' own, and its model is built in shapes."""

import importlib.util
import inspect
import json
import pathlib

import jax
import pytest

from o1jax.model.init import abstract_params, parameter_count
from o1jax.model.lora import LoraSettings, abstract_adapted
from o1jax.model.presets import PRESETS, preset
from o1jax.parallel.mesh import make_mesh
from o1jax.stages import run, settings

CONFIGS = pathlib.Path(__file__).parents[1] / "configs"
VARIANTS = {
    "prepare": (
        "ladder",
        "mbpp",
        "mbpp_few_shot",
        "mbpp_sanitized",
        "humaneval",
        "humaneval_plus",
        "taco",
        "apps",
        "codecontests",
    ),
    "self_play": ("demo", "ladder", "search", "qwen2.5-coder-1.5b-cpu", "qwen2.5-coder-7b"),
    "search": ("nano",),
    "evaluate": ("demo", "mbpp", "humaneval"),
    "tcg": ("ladder", "deepseek-coder-1.3b"),
    "prm": ("ladder", "qwen2.5-coder-7b"),
    "policy_rl": ("nano", "qwen2.5-coder-7b"),
    "policy_dpo": ("nano", "qwen2.5-coder-7b"),
    "rl": ("ladder", "ladder_long"),
    "arms": ("demo", "ladder"),
    "policy_sft": (
        "nano",
        *(f"qwen2.5-{size}" for size in ("0.5b", "1.5b", "3b", "7b", "14b", "32b")),
        *(f"qwen2.5-coder-{size}" for size in ("0.5b", "1.5b", "3b", "7b", "14b", "32b")),
    ),
}
NOT_A_STAGE = {
    "seed",
    "inputs",
    "rounds",
    "arms",
    "problems",
    "policy",
    "pool_trees",
    "held_out_trees",
    "more_trees",
    "rl_at_once",
}
NOT_A_STAGE |= {"seeds", "budget_of", "trained_tokens", "tokens_of", "pages"}
NOT_A_STAGE |= {
    "forms",
    "tcg_from",
    "prm_from",
    "references_from",
    "generated_tests",
    "find",
    "steps",
    "evaluations",
    "prm_start",
}
PROBLEMS = (
    "references",
    "validation",
    "calibration",
    "pool",
    "held_out",
    "tcg_problems",
    "tcg_held_out",
    "audit",
)
STAGE_OF_PAGE = {name: "check_problems" for name in PROBLEMS} | {
    "scout": "sample",
    "rest": "sample",
    "search_evaluate": "evaluate",
    "evaluate_few_shot": "evaluate",
}
PAGES = [(path.stem, v) for path in sorted(CONFIGS.glob("*.py")) for v in VARIANTS.get(path.stem, (None,))]


def load(name, variant):
    spec = importlib.util.spec_from_file_location(f"config_{name}", CONFIGS / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    config = module.get_config(variant) if variant else module.get_config()
    assert inspect.getdoc(module), f"{name}: a page says its command, hardware and expected figures"
    return json.loads(config.to_json_best_effort())


@pytest.mark.parametrize("name, variant", PAGES)
def test_every_page_parses_into_its_stages_settings(name, variant):
    page = load(name, variant)
    parsed = 0
    for key, value in page.items():
        if key not in NOT_A_STAGE:
            stage = STAGE_OF_PAGE.get(key, key)
            if name == "search" and key == "check_problems":
                value = {**value, "source": page["problems"]}
            if key == "tcg_sft" and name == "tcg":
                value = {**value, "train_tokens": page["forms"]["plain"]["train_tokens"]}
            module = run.module_of(stage)
            settings.parse(module.Settings, value, key)
            parsed += 1
    assert parsed


@pytest.mark.parametrize(
    "name, variant, held_out",
    [("tcg", "deepseek-coder-1.3b", "held_out"), ("self_play", "qwen2.5-coder-7b", "tcg_held_out")],
)
def test_a_generator_is_measured_on_problems_with_a_visible_test(name, variant, held_out):
    assert load(name, variant)[held_out].items() >= {"source": "taco:test", "shown_tests": 1}.items()


@pytest.mark.parametrize("name", sorted(PRESETS))
def test_every_model_builds_in_shapes_alone(name):
    mesh = make_mesh()
    _, params = abstract_params(preset(name), mesh)
    assert all(isinstance(leaf, jax.ShapeDtypeStruct) for leaf in jax.tree.leaves(params))


@pytest.mark.parametrize(
    "stage, variant", [(s, v) for s in ("policy_sft", "prm", "policy_rl", "policy_dpo") for v in VARIANTS[s]]
)
def test_the_model_of_a_page_is_a_preset(stage, variant):
    assert load(stage, variant)[stage]["train"]["model"] in PRESETS


@pytest.mark.parametrize(
    "name, variant, stage",
    [
        ("tcg", "deepseek-coder-1.3b", "tcg_sft"),
        ("tcg", "deepseek-coder-1.3b", "tcg_dpo"),
        ("prm", "qwen2.5-coder-7b", "prm"),
    ],
)
def test_the_adapters_of_a_page_build_in_shapes_alone(name, variant, stage):
    page = load(name, variant)[stage]
    lora = settings.parse(LoraSettings, page["train"]["lora"])
    _, adapters, frozen = abstract_adapted(preset(page["train"]["model"]), lora, make_mesh())
    assert 0 < 200 * parameter_count(adapters) < parameter_count(frozen)
    assert all(isinstance(leaf, jax.ShapeDtypeStruct) for leaf in jax.tree.leaves((adapters, frozen)))


@pytest.mark.parametrize("name, variant", [(n, "no_such_variant") for n in VARIANTS])
def test_an_unknown_variant_is_refused_by_name(name, variant):
    with pytest.raises(ValueError, match="no_such_variant"):
        load(name, variant)
