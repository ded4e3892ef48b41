"""summary.json: curves by round, arms beside them, costs by stage, also of an unfinished run."""

import json

from etils import epath

from o1jax.report import summary, tables
from o1jax.report.run_files import RunFiles

MEAN = {"mean": 0.25, "low": 0.2, "high": 0.3, "n": 10}


def write(workdir, path, figures, seconds=2.0):
    """A stage's manifest; the stage is named by the last part of its path."""
    directory = workdir / path
    directory.mkdir(parents=True)
    manifest = {"stage": directory.name, "figures": figures, "timings": {"seconds": seconds}}
    (directory / "manifest.json").write_text(json.dumps(manifest))


def evaluation(mean):
    of = {**MEAN, "mean": mean}
    lost = {"no_program_share": 0.125, "malformed_share": 0.375, "cut_share": 0.0625}
    prompt = {**lost, "pass_at_1": of, "pass_at_8": of, "by_rung": {"rung 2": {"pass_at_1": of}}}
    return {"pseudocode": prompt, "direct": prompt, "generated_tokens": 100}


def test_curves_costs_and_arms(tmp_path):
    workdir = epath.Path(tmp_path)
    write(workdir, "warm_up", {"trained_tokens": 7})
    write(workdir, "warm_up_evaluate", evaluation(0.1))
    write(workdir, "round_00/evaluate", evaluation(0.2))
    write(workdir, "round_01/evaluate", evaluation(0.3))
    write(workdir, "compare/sampling/round_00/evaluate", evaluation(0.15))
    got = summary.write(RunFiles(workdir))
    assert got == json.loads((workdir / "summary.json").read_text())
    means = {name: figure["mean"] for name, figure in got["held_out_pass_at_1"].items()}
    assert means == {"warm_up": 0.1, "round_0": 0.2, "round_1": 0.3, "final": 0.3}
    assert got["compare"]["sampling"]["held_out_pass_at_1"]["final"]["mean"] == 0.15
    assert got["totals"] == {"seconds": 10.0, "generated_tokens": 400, "trained_tokens": 7}
    lines = tables.curves(got).splitlines()
    assert len(lines) == 6 and all(line.split()[-2:] == ["0.125", "0.062"] for line in lines[1:5])
    assert got["lost"]["round_0"]["direct"]["malformed_share"] == 0.375


def test_an_evaluation_of_old_without_the_shares_is_shown_without_them(tmp_path):
    workdir = epath.Path(tmp_path)
    old = {name: value for name, value in evaluation(0.1)["direct"].items() if "share" not in name}
    write(workdir, "warm_up_evaluate", {"pseudocode": old, "generated_tokens": 1})
    assert tables.curves(summary.write(RunFiles(workdir))).splitlines()[1].split()[-2:] == ["-", "-"]


def test_an_unfinished_run_has_what_there_is(tmp_path):
    workdir = epath.Path(tmp_path)
    write(workdir, "problems/pool", {"problems": 3})
    got = summary.write(RunFiles(workdir))
    assert got["held_out_pass_at_1"] == {} and got["totals"]["seconds"] == 2.0


def test_process_reward_models_stand_beside_their_baseline(tmp_path):
    workdir = epath.Path(tmp_path)
    own = {"auc": MEAN, "within_problem_auc": None, "pair_accuracy": 0.75, "log_loss": 0.5}
    held_out = {"prm": own, "baseline": {**own, "pair_accuracy": 0.5}, "auc_difference": MEAN}
    held_out |= {"likelihood": {**own, "pair_accuracy": 0.25}}
    write(workdir, "prm/soft", {"held_out": held_out, "trained_tokens": 5})
    arms = {"search": {"pass_rate": MEAN}, "search_prm": {"pass_rate": MEAN}}
    write(workdir, "prm/evaluate", {"search": arms, "search_differences": {"search_prm - search": MEAN}})
    got = summary.write(RunFiles(workdir))["prm"]
    assert got["soft"]["pair_accuracy"] == 0.75 and got["soft"]["baseline"]["pair_accuracy"] == 0.5
    assert got["soft"]["likelihood"]["pair_accuracy"] == 0.25
    assert got["soft"]["auc_difference"] == MEAN and "log_loss" not in got["soft"]
    assert got["search"] == {"search": MEAN, "search_prm": MEAN}
    assert got["search_differences"] == {"search_prm - search": MEAN}
    *models, rates = tables.reward_models({"prm": got}).splitlines()
    assert models and all(line.startswith("prm ") and "AUC 0.250" in line for line in models)
    assert "likelihood before training 0.250" in models[0]
    assert rates.startswith("pass rate: ") and "search_prm 0.250" in rates


def test_generators_are_listed_by_form_and_kind(tmp_path):
    workdir = epath.Path(tmp_path)
    names = ("validity", "validity_not_degenerate", "degenerate_share", "useful")
    after = {
        "false_accept_mutants": MEAN,
        "false_accept_policy": {**MEAN, "mean": None},
        "false_reject": MEAN,
    }
    figures = {"before": {"program": dict.fromkeys(names, MEAN)}, "after": {"generated": after}}
    write(workdir, "tcg/plain/sft", {"trained_tokens": 5})
    write(workdir, "tcg/plain/sft_evaluate", figures)
    write(workdir, "tcg/traced/shuffled_evaluate", {**figures, "after": {}})
    write(workdir, "tcg/selection", {"agreement": MEAN})
    got = summary.write(RunFiles(workdir))["tcg"]
    assert list(got) == ["plain/sft", "traced/shuffled", "selection"] and got["plain/sft"] == figures
    _, plain, traced = tables.generators({"tcg": got}).splitlines()
    assert plain.split() == ["plain/sft", *["0.250"] * 5, "-", "0.250"] and traced.split()[-3:] == ["-"] * 3


RL = {
    "updates": 40,
    "updates_without_signal": 1,
    "first_outcome": 0.25,
    "last_outcome": 0.5,
    "first_process": None,
    "last_process": None,
    "groups_kept": 60,
    "groups_dropped": 20,
    "watch": {
        "entropy": {"first": 0.5, "last": 0.0625},
        "sampler_difference": {"first": 1e-6, "last": 2e-6},
        "false_accept": {"first": 0.0, "last": 0.125},
    },
    "flags": {"reward_hacking": False, "entropy_collapse": True, "sampler_mismatch": False},
}


def test_policy_gradient_and_dpo_are_listed_by_place_with_their_watchers(tmp_path):
    workdir = epath.Path(tmp_path)
    write(workdir, "round_00/policy_rl", {**RL, "generated_tokens": 9, "next_update": 40})
    write(workdir, "compare/dpo/round_00/policy_dpo", {"pairs": 3, "problems": 2, "steps": 5, "margin": 1.0})
    write(workdir, "round_00/policy_sft", {"updates": 3})
    got = summary.write(RunFiles(workdir))["rl"]
    assert got == {
        "compare/dpo/round_00/policy_dpo": {"pairs": 3, "problems": 2, "steps": 5},
        "round_00/policy_rl": RL,
    }


def test_a_line_of_rl_says_what_was_watched_and_which_flags_are_raised():
    scored = {**RL, "first_process": 0.5, "last_process": 0.75, "flags": dict.fromkeys(RL["flags"], False)}
    dpo = {"pairs": 3, "problems": 2, "steps": 5}
    hacked = {**scored, "flags": dict.fromkeys(RL["flags"], True), "watch": {}}
    lines = tables.reinforcement({"rl": {"a": RL, "b": scored, "c": dpo, "d": hacked}}).splitlines()
    watched = "entropy 0.5 > 0.0625, sampler difference 1e-06 > 2e-06, false accept 0 > 0.125"
    start = "40 updates, 60 of 80 groups, outcome 0.25 > 0.5"
    assert [line.split(maxsplit=1) for line in lines] == [
        ["a", f"{start}, {watched}, ENTROPY COLLAPSE"],
        ["b", f"{start}, process 0.5 > 0.75, {watched}"],
        ["c", "5 steps, 3 pairs of 2 problems"],
        ["d", f"{start}, process 0.5 > 0.75, REWARD HACKING, ENTROPY COLLAPSE, SAMPLER MISMATCH"],
    ]
    assert tables.reinforcement({"rl": {}}) == ""
