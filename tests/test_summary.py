"""summary.json: curves by round, arms beside them, costs by stage, also of an unfinished run."""

import json

from etils import epath

from o1jax.report import summary

MEAN = {"mean": 0.25, "low": 0.2, "high": 0.3, "n": 10}


def write(workdir, place, figures, seconds=2.0):
    directory = workdir / place
    directory.mkdir(parents=True)
    (directory / "manifest.json").write_text(
        json.dumps({"figures": figures, "timings": {"seconds": seconds}})
    )


def evaluation(mean):
    of = {**MEAN, "mean": mean}
    prompt = {"pass_at_1": of, "pass_at_8": of, "by_rung": {"rung 2": {"pass_at_1": of}}}
    return {"pseudocode": prompt, "direct": prompt, "generated_tokens": 100}


def test_curves_costs_and_arms(tmp_path):
    workdir = epath.Path(tmp_path)
    write(workdir, "warm_up", {"trained_tokens": 7})
    write(workdir, "warm_up_evaluate", evaluation(0.1))
    write(workdir, "round_00/evaluate", evaluation(0.2))
    write(workdir, "round_01/evaluate", evaluation(0.3))
    write(workdir, "compare/sampling/round_00/evaluate", evaluation(0.15))
    got = summary.write(workdir)
    assert got == json.loads((workdir / "summary.json").read_text())
    means = {name: figure["mean"] for name, figure in got["held_out_pass_at_1"].items()}
    assert means == {"warm_up": 0.1, "round_0": 0.2, "round_1": 0.3, "final": 0.3}
    assert got["compare"]["sampling"]["held_out_pass_at_1"]["final"]["mean"] == 0.15
    assert got["totals"] == {"seconds": 10.0, "generated_tokens": 400, "trained_tokens": 7}
    assert len(summary.table(got).splitlines()) == 6


def test_an_unfinished_run_has_what_there_is(tmp_path):
    workdir = epath.Path(tmp_path)
    write(workdir, "problems/pool", {"problems": 3})
    got = summary.write(workdir)
    assert got["held_out_pass_at_1"] == {} and got["totals"]["seconds"] == 2.0


def test_process_reward_models_stand_beside_their_baseline(tmp_path):
    workdir = epath.Path(tmp_path)
    own = {"auc": MEAN, "within_problem_auc": None, "pair_accuracy": 0.75, "log_loss": 0.5}
    held_out = {"prm": own, "baseline": {**own, "pair_accuracy": 0.5}, "auc_difference": MEAN}
    write(workdir, "prm/soft", {"held_out": held_out, "trained_tokens": 5})
    arms = {"search": {"pass_rate": MEAN}, "search_prm": {"pass_rate": MEAN}}
    write(workdir, "prm/evaluate", {"search": arms, "search_differences": {"search_prm - search": MEAN}})
    got = summary.write(workdir)["prm"]
    assert got["soft"]["pair_accuracy"] == 0.75 and got["soft"]["baseline"]["pair_accuracy"] == 0.5
    assert got["soft"]["auc_difference"] == MEAN and "log_loss" not in got["soft"]
    assert got["search"] == {"search": MEAN, "search_prm": MEAN}
    assert got["search_differences"] == {"search_prm - search": MEAN}


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
    got = summary.write(workdir)["tcg"]
    assert list(got) == ["plain/sft", "traced/shuffled", "selection"] and got["plain/sft"] == figures
    _, plain, traced = summary.tcg_table(got).splitlines()
    assert plain.split() == ["plain/sft", *["0.250"] * 5, "-", "0.250"] and traced.split()[-3:] == ["-"] * 3
