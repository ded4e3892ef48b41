"""The flags of a page: every setting of its stages is one, those that the documents name among them."""

import importlib.util
import json
import pathlib
import re

import pytest
from absl import flags

from o1jax.records import InputError

ROOT = pathlib.Path(__file__).parents[1]


def launched(name):
    """A module of launch/, which stays off the path: its profile.py is not Python's."""
    spec = importlib.util.spec_from_file_location(name, ROOT / "launch" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


pages, closing = launched("pages"), launched("closing")
NAMED = [  # (page, flag) for every --config.a.b= in the docstring of a page, but for <placeholders>
    (path.stem, flag)
    for path in sorted(pages.CONFIGS.glob("*.py"))
    for flag in sorted(set(re.findall(r"--config(?:\.\w+)+(?==)", path.read_text(encoding="utf-8"))))
]


def settings_of(*arguments, page="policy_sft"):
    """What a script with these arguments would run."""
    values = flags.FlagValues()
    found = pages.Page(pages.CONFIGS / f"{page}.py", arguments, values)
    values(["script", *found.others])
    return found.settings()


def test_a_page_is_run_as_it_is_written_where_no_flag_says_otherwise():
    for path in sorted(pages.CONFIGS.glob("*.py")):
        written = pages.loaded(str(path))
        found = settings_of(page=path.stem)
        assert found == json.loads(json.dumps(written)) and list(found) == list(written)


def test_a_flag_sets_what_the_page_leaves_out_and_nothing_else():
    page = pages.loaded(str(pages.CONFIGS / "policy_rl.py"))
    assert "clip_norm" not in str(page) and "lora" not in page["policy_rl"]["train"]
    found = settings_of(
        "--config.policy_rl.train.adamw.clip_norm=0.5", "--config.policy_rl.engine.tensor=2", page="policy_rl"
    )
    assert found["policy_rl"]["train"].pop("adamw")["clip_norm"] == 0.5
    assert found["policy_rl"]["engine"].pop("tensor") == 2
    assert found == json.loads(json.dumps(page))
    found = settings_of("--config.policy_sft.train.lora.targets=('q_proj',)")
    assert found["policy_sft"]["train"]["lora"]["targets"] == ["q_proj"]


def test_a_default_that_is_no_class_default_keeps_its_other_values():
    found = settings_of("--config.policy_rl.loss.clip_low=0.1", page="policy_rl")
    assert found["policy_rl"]["loss"]["clip_low"] == 0.1 and found["policy_rl"]["loss"]["clip_high"] == 0.28


def test_a_record_that_is_set_whole_keeps_what_it_does_not_name():
    page = pages.loaded(str(pages.CONFIGS / "evaluate.py"))["evaluate"]
    found = settings_of("--config.evaluate.sample={'n': 3}", page="evaluate")["evaluate"]
    assert found["sample"] == {**page["sample"], "n": 3} and page["sample"]["n"] != 3
    found = settings_of("--config.evaluate={'ks': (1,)}", page="evaluate")["evaluate"]
    assert found == json.loads(json.dumps({**page, "ks": (1,)}))


def test_names_of_the_pages_own_are_set_whole():
    found = settings_of("--config.pool.counts={'rung_2': 5}", page="self_play")
    assert found["pool"]["counts"] == {"rung_2": 5} and found["pool"]["source"] == "ladder:pool"
    ladder = ("--config.check_problems.source=ladder:pool", "--config.check_problems.counts={'rung_9': 1}")
    assert settings_of(*ladder, page="prepare")["check_problems"]["counts"] == {"rung_9": 1}


def test_further_rounds_are_inputs():
    found = settings_of(
        "--config.inputs.found_1=there", "--config=" + str(pages.CONFIGS / "policy_sft.py:nano")
    )
    assert found["inputs"]["found_1"] == "there" and "found_2" not in found["inputs"]


@pytest.mark.parametrize(
    "argument, said",
    [
        (
            "--config=configs/serch.py",
            "saw configs/serch.py, which is no file; in configs/ there are arms.py, evaluate.py",
        ),
        (f"--config={pages.CONFIGS}/policy_sft.py:nan", "variant 'nan': there are nano"),
        (
            "--config.policy_sft.train.lora.rnk=2",
            "policy_sft.train.lora.rnk: no such setting; .* has alpha, base, rank, targets",
        ),
        (
            "--config.policy_sft.learning_rate=1e-4",
            "config.policy_sft.learning_rate: it is --config.policy_sft.train.learning_rate now",
        ),
        ("--config.seed.of=2", "config.seed.of: no such setting; config.seed has no settings of its own"),
    ],
)
def test_what_is_not_there_is_said_with_what_is(argument, said):
    with pytest.raises(InputError, match=said):
        settings_of(argument)


@pytest.mark.parametrize("page, flag", NAMED)
def test_the_flags_that_a_page_names_are_there_in_one_of_its_variants(page, flag):
    text = (pages.CONFIGS / f"{page}.py").read_text(encoding="utf-8")
    variants = {"", *re.findall(rf"configs/{page}\.py:([\w.-]+)", text)}
    refusals = []
    for variant in sorted(variants):
        named = f"{pages.CONFIGS}/{page}.py" + (f":{variant}" if variant else "")
        try:
            pages.check(flag, pages.with_stage_defaults(pages.loaded(named)))
        except InputError as error:
            refusals.append(str(error))
    assert len(refusals) < len(variants), refusals


def run_by(command):
    """(script, the settings that it would run with)."""
    _, script, *arguments = command.split()
    name = pathlib.Path(script).stem
    arguments = [argument.replace("=configs/", f"={pages.CONFIGS}/") for argument in arguments]
    return name, settings_of(*arguments, page=name)


@pytest.mark.parametrize(
    "variant, arm, traced, style",
    [("ladder", "traced/near_miss", True, "nano"), ("deepseek-coder-1.3b", "plain/shuffled", False, "full")],
)
def test_tests_are_written_as_the_generator_was_trained(variant, arm, traced, style):
    page = pages.loaded(f"{pages.CONFIGS}/tcg.py:{variant}")
    name, found = run_by(closing.after_tcg(pathlib.Path("runs/a"), page))
    write = found["write_tests"]["write"]
    assert name == "write_tests" and found["inputs"]["tcg"] == f"runs/a/tcg/{arm}"
    assert (write["traced"], write["style"]) == (traced, style)
    assert found["write_tests"]["engine"]["context"] == page["evaluate_tcg"]["engine"]["context"]


@pytest.mark.parametrize(
    "variant, policy", [("ladder", "runs/a/warm_up"), ("qwen2.5-coder-7b", "weights/qwen2.5-coder-7b")]
)
def test_a_reward_model_is_used_on_the_policy_that_it_was_made_from(variant, policy):
    page = pages.loaded(f"{pages.CONFIGS}/prm.py:{variant}")
    name, found = run_by(closing.after_prm(pathlib.Path("runs/a"), page))
    inputs = {"policy": policy, "prm": "runs/a/prm/hard", "problems": "runs/a/problems/pool"}
    assert name == "policy_rl" and inputs.items() <= found["inputs"].items()
    assert found["policy_rl"]["reward"]["alpha"]["kind"] == "linear"
    searched = {**page, "pool_trees": "runs/b/search"}
    assert "inputs.problems" not in closing.after_prm(pathlib.Path("runs/a"), searched)
