"""A small run on disk, as stages leave it, with figures made up by hand."""

import json

from etils import epath

from o1jax.records import CaseResult, Node, Problem, Rollout, Status, TestCase, Tree, Verdict
from o1jax.store import write_records

HOSTILE = 'print(\'</script><script>document.title = "taken"</script>\')\u2028<!-- & "quoted"'
PASS = Verdict(True, (CaseResult(Status.AC), CaseResult(Status.AC)))
FAIL = Verdict(True, (CaseResult(Status.AC), CaseResult(Status.WA, "got 7")))


def share(mean, low=None, high=None, n=4):
    """A figure with its interval."""
    return {
        "mean": mean,
        "low": mean - 0.1 if low is None else low,
        "high": mean + 0.1 if high is None else high,
        "n": n,
    }


def stage(run, path, name, figures, inputs=None, **timings):
    """A finished stage's record, and its directory."""
    directory = run / path
    directory.mkdir(parents=True, exist_ok=True)
    spec = {
        "stage": name,
        "config": {},
        "seed": 0,
        "inputs": {},
        "places": {k: str(run / v) for k, v in (inputs or {}).items()},
    }
    (directory / "spec.json").write_text(json.dumps(spec))
    manifest = {**spec, "figures": figures, "timings": {"seconds": 60.0, **timings}, "versions": {}}
    (directory / "manifest.json").write_text(json.dumps(manifest))
    return directory


def problems(run, split, count):
    """`count` problems of two rungs, in problems/<split>."""
    made = [
        Problem(
            f"{split}/{k}",
            f"Add {k}. {HOSTILE}",
            "stdin",
            difficulty=f"rung {1 + k % 2}",
            tests=(TestCase("1", "2"), TestCase("3", "4")),
        )
        for k in range(count)
    ]
    directory = stage(run, f"problems/{split}", "check_problems", {"problems": count, "kept": count})
    write_records(directory / "problems.parquet", Problem, made)
    return made


def evaluation(run, path, passes, of=4, split="held_out"):
    """An evaluate stage: `passes[k]` of `of` answers to problem k pass."""
    rollouts = [
        Rollout(
            f"{k}#{i}",
            "",
            f"{split}/{k}",
            (1,),
            (2,),
            (-0.1,),
            (True,),
            "eos",
            1.0,
            0,
            "pseudocode",
            "pass\n",
            PASS,
            float(i < passed),
        )
        for k, passed in enumerate(passes)
        for i in range(of)
    ]
    mean = share(sum(passes) / of / len(passes), n=len(passes))
    figures = {
        "pass_at_1": mean,
        "pass_at_8": mean,
        "by_rung": {"rung 1": {"pass_at_1": mean, "pass_at_8": mean}},
        "no_program_share": 0.125,
        "malformed_share": 0.375,
        "cut_share": 0.0625,
    }
    figures["by_rung"]["rung 2"] = figures["by_rung"]["rung 1"]
    directory = stage(
        run,
        path,
        "evaluate",
        {"pseudocode": figures, "generated_tokens": 10},
        {"problems": f"problems/{split}"},
        slot_occupancy=0.5,
    )
    write_records(directory / "rollouts" / "pseudocode.parquet", Rollout, rollouts)


def node(index, parent, text, action=1, **more):
    """A node that was visited twice."""
    return Node(
        index, parent, 0, action, (1, 2), (-0.1, -0.2), (True, True), text, visits=2, value_sum=1.0, **more
    )


def tree(problem_id, nodes=None):
    """A tree, if not of `nodes`, with a passing and a failing program, a malformed step and scores."""
    made = nodes or (
        node(0, -1, "", 0),
        node(1, 0, "<Step_Begin>### Step 1: <Action 1>\nadd them<Step_End>", score=0.25),
        node(2, 1, f"```python\n{HOSTILE}\n```", 3, terminal=True, value=1.0, verdict=PASS),
        node(3, 1, "```python\nprint(7)\n```", 3, terminal=True, value=0.55, verdict=FAIL),
        node(4, 0, "no header", 0, value=0.0, error="step 1: saw 'no header'"),
    )
    return Tree(problem_id, (1, 2), made, 5, 1.0, 3, 40, 2)


def search(run, path, trees, split="pool"):
    """A search stage with its trees."""
    solved = sum(one.solved for one in trees)
    figures = {"problems": len(trees), "solved": solved, "solved_share": solved / len(trees), "rollouts": 3}
    directory = stage(
        run, path, "search", {**figures, "generated_tokens": 40}, {"problems": f"problems/{split}"}
    )
    write_records(directory / "trees" / "one.parquet", Tree, trees)


def lines(directory, rows):
    """fit/metrics.jsonl of a stage."""
    (directory / "fit").mkdir(parents=True, exist_ok=True)
    (directory / "fit" / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def whole(root):
    """A run with every section: two evaluations, an arm beside, a search, a generator, a reward model, RL."""
    run = epath.Path(root)
    problems(run, "held_out", 8)
    problems(run, "pool", 6)
    warm_up = stage(run, "warm_up", "warm_up", {"trained_tokens": 7}, tokens_per_second=100)
    lines(warm_up, [{"step": k, "loss": 1 / k} for k in range(1, 40)])
    evaluation(run, "warm_up_evaluate", [0, 0, 1, 1, 0, 0, 1, 1])
    search(run, "round_00/search", [tree(f"pool/{k}") for k in range(6)])
    evaluation(run, "round_00/evaluate", [2, 3, 4, 4, 2, 3, 4, 4])
    evaluation(run, "compare/sampling/round_00/evaluate", [2, 2, 4, 4, 2, 2, 4, 4])
    _generator(run)
    _reward_model(run)
    _reinforcement(run)
    return run


def _generator(run):
    before = dict.fromkeys(
        ("parse_rate", "validity", "validity_not_degenerate", "degenerate_share", "useful"), share(0.4)
    )
    accepts = dict.fromkeys(("false_accept_mutants", "false_accept_policy", "false_reject"), share(0.2))
    nothing = {"mean": None, "low": None, "high": None, "n": 0}
    after = {"generated": accepts, "own": {**accepts, "false_accept_policy": nothing}}
    figures = {"before": {"program": before}, "after": after, "fates": {"kept": 3, "false": 5}}
    stage(run, "tcg/dpo_evaluate", "evaluate_tcg", figures)


def _reward_model(run):
    side = {
        "auc": share(0.8),
        "within_problem_auc": share(0.7),
        "pair_accuracy": 0.6,
        "auc_by_depth": {"1": 0.7, "2": None},
    }
    side |= {"log_loss": 0.5, "calibration_error": 0.1, "n_pairs": 3}
    side["calibration"] = [{"score": 0.2, "label": 0.1, "n": 5}, {"score": 0.8, "label": 0.9, "n": 7}]
    held_out = {"prm": side, "baseline": {**side, "auc": share(0.6)}, "auc_difference": share(0.2)}
    held_out |= {"n_nodes": 12, "n_problems": 4, "hard_share": 0.5, "log_loss_floor": 0.3}
    figures = {
        "objective": "hard",
        "examples": 5,
        "problems": 4,
        "steps": 2,
        "trained_tokens": 9,
        "held_out": held_out,
    }
    stage(run, "prm/hard", "prm", figures)


def _reinforcement(run):
    names = (
        "updates_without_signal",
        "first_outcome",
        "last_outcome",
        "first_process",
        "last_process",
        "groups_kept",
        "groups_dropped",
    )
    flags = {"reward_hacking": True, "entropy_collapse": False, "sampler_mismatch": False}
    figures = {**dict.fromkeys(names, 0.5), "updates": 12, "watch": {}, "flags": flags}
    directory = stage(run, "round_00/policy_rl", "policy_rl", figures)
    lines(
        directory,
        [
            {"step": k + 1, "update": k, "outcome": k / 20, "process": k / 12, "entropy": 1.0}
            for k in range(12)
        ],
    )
