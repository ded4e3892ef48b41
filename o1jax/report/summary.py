"""A run's headline figures, gathered from the manifests of its finished stages into summary.json.

Keys: `held_out_pass_at_1`, `held_out_pass_at_8` (pseudocode prompt) and `direct_pass_at_1` hold
{warm_up (or start, the policy that was given), round_0, ..., final}, each {mean, low, high, n} with a
95 % bootstrap interval over problems; `lost` holds {warm_up, round_0, ...} -> prompt -> the shares of its
answers {no_program_share, malformed_share, cut_share}, those that were counted; `by_rung` holds {warm_up,
round_0, ...} -> rung -> {pass_at_1, pass_at_8}; `compare` holds the same for each other arm; `prm` holds
{soft, hard, pair} -> the held-out AUC and pair accuracy of a process reward model, of its baseline and of
the likelihood that it began with, and
the pass rates of search with one; `tcg` holds <form>/<stage> -> what a test-case generator's cases are worth
before and after the gate, and `selection`; `rl` holds the path of every policy_rl and policy_dpo stage -> its
headline figures (below); `stages` holds path -> {seconds, generated_tokens, trained_tokens} (where the stage
has them); `totals` sums them. Makes no page (page.py does).

Of policy_rl, first and last being means over a tenth of the updates: updates, and those without a signal;
first_ and last_outcome; first_ and last_process, the reward model's mean score of a step (null without
one); groups_kept and _dropped; `watch` -> {first, last} of entropy and sampler_difference (log-probs of
sampler and trainer), both nats a token, of steps an answer, of complete, the share of answers with the
actions 1 -> 2 -> 3, and of false_accept, the share of passing programs that fail the audit, where there is
one; `flags` -> whether each is raised (reward_hacking, entropy_collapse, sampler_mismatch). Of policy_dpo:
pairs, problems and optimizer steps.
"""

from __future__ import annotations

import json
import re
from typing import Any

from o1jax.report.run_files import RunFiles
from o1jax.writing import write_whole

PROMPTS = ("pseudocode", "direct", "completion")
LOST = ("no_program_share", "malformed_share", "cut_share")
COUNTED = ("generated_tokens", "trained_tokens")
PRM_FIGURES = ("auc", "within_problem_auc", "pair_accuracy")
ENDS = ("first_outcome", "last_outcome", "first_process", "last_process")
GROUPS = ("groups_kept", "groups_dropped")
RL_FIGURES = {
    "policy_rl": ("updates", "updates_without_signal", *ENDS, *GROUPS, "watch", "flags"),
    "policy_dpo": ("pairs", "problems", "steps"),
}


def write(files: RunFiles) -> dict[str, Any]:
    """Writes summary.json into the run from what is finished so far, and returns it."""
    summary = of(files)
    write_whole(files.workdir / "summary.json", json.dumps(summary, indent=1) + "\n")
    return summary


def of(files: RunFiles) -> dict[str, Any]:
    """The summary. A part whose manifests lack what it is made of is empty, and a fault of the run."""
    summary = _curve(files.manifests, "")
    for name, gather in PARTS.items():
        try:
            summary[name] = gather(files.manifests)
        except (AttributeError, KeyError, TypeError) as error:
            files.fault(
                f"{files.workdir}: no figures of {name}: a manifest lacks what they are made of ({error})"
            )
            summary[name] = {}
    costs = summary["stages"].values()
    summary["totals"] = {
        key: round(sum(cost.get(key, 0) for cost in costs), 1) for key in ("seconds", *COUNTED)
    }
    return summary


def evaluations(manifests: dict[str, dict], prefix: str) -> dict[str, str]:
    """Of one arm ("" or compare/<arm>/), the name of a round -> the path of its evaluation, in order; without
    those that did not sample from the pseudocode prompt, or not enough."""
    paths = {name: f"{name}_evaluate" for name in ("warm_up", "start")}
    rounds = re.compile(re.escape(prefix) + r"round_(\d+)/evaluate")
    found = [(int(match[1]), path) for path in manifests if (match := rounds.fullmatch(path))]
    paths |= {f"round_{number}": path for number, path in sorted(found)}
    return {name: path for name, path in paths.items() if _is_evaluation(manifests.get(path, {}))}


def _is_evaluation(manifest: dict[str, Any]) -> bool:
    figures = manifest.get("figures", {}).get("pseudocode")
    return isinstance(figures, dict) and {"pass_at_1", "pass_at_8", "by_rung"} <= figures.keys()


def _curve(manifests: dict[str, dict], prefix: str) -> dict[str, Any]:
    """The evaluations of one arm by name of round; `final` repeats the last round's."""
    figures = {name: manifests[path]["figures"] for name, path in evaluations(manifests, prefix).items()}
    if len(figures) > 1:
        figures["final"] = list(figures.values())[-1]
    return {
        "held_out_pass_at_1": {name: f["pseudocode"]["pass_at_1"] for name, f in figures.items()},
        "held_out_pass_at_8": {name: f["pseudocode"]["pass_at_8"] for name, f in figures.items()},
        "direct_pass_at_1": {name: f["direct"]["pass_at_1"] for name, f in figures.items() if "direct" in f},
        "lost": {name: {p: lost(f[p]) for p in PROMPTS if p in f} for name, f in figures.items()},
        "by_rung": {name: f["pseudocode"]["by_rung"] for name, f in figures.items()},
    }


def lost(figures: dict[str, Any]) -> dict[str, float]:
    """The shares of a prompt's answers that stand beside its pass@1; evaluations of old have fewer."""
    return {name: figures[name] for name in LOST if name in figures}


def _compare(manifests: dict[str, dict]) -> dict[str, Any]:
    arms = sorted({path.split("/")[1] for path in manifests if path.startswith("compare/")})
    return {arm: _curve(manifests, f"compare/{arm}/") for arm in arms}


def _prm(manifests: dict[str, dict]) -> dict[str, Any]:
    """The process reward models of prm/<objective>, and prm/evaluate."""
    section: dict[str, Any] = {}
    for path, manifest in manifests.items():
        if path.startswith("prm/") and (held_out := manifest["figures"].get("held_out")):
            beside = [name for name in ("baseline", "likelihood") if name in held_out]
            section[path.removeprefix("prm/")] = {
                **{name: held_out["prm"][name] for name in PRM_FIGURES},
                "auc_difference": held_out["auc_difference"],
                **{of: {name: held_out[of][name] for name in PRM_FIGURES} for of in beside},
            }
    if "prm/evaluate" in manifests:
        figures = manifests["prm/evaluate"]["figures"]
        section["search"] = {name: arm["pass_rate"] for name, arm in figures["search"].items()}
        section["search_differences"] = figures["search_differences"]
    return section


def _tcg(manifests: dict[str, dict]) -> dict[str, Any]:
    """plain/sft, traced/shuffled, ... -> the figures of its evaluation; selection -> those of the choice."""
    section = {
        path.removeprefix("tcg/").removesuffix("_evaluate"): manifest["figures"]
        for path, manifest in manifests.items()
        if path.startswith("tcg/") and path.endswith("_evaluate")
    }
    if "tcg/selection" in manifests:
        section["selection"] = manifests["tcg/selection"]["figures"]
    return section


def _rl(manifests: dict[str, dict]) -> dict[str, Any]:
    return {
        path: {name: of["figures"][name] for name in RL_FIGURES[of["stage"]] if name in of["figures"]}
        for path, of in manifests.items()
        if of["stage"] in RL_FIGURES
    }


def _costs(manifests: dict[str, dict]) -> dict[str, Any]:
    return {
        path: {"seconds": of["timings"]["seconds"]}
        | {key: of["figures"][key] for key in COUNTED if key in of["figures"]}
        for path, of in manifests.items()
    }


PARTS = {"compare": _compare, "prm": _prm, "tcg": _tcg, "rl": _rl, "stages": _costs}
