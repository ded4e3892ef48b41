"""Self-play: the six steps of O1-CODER (arXiv 2412.00154, algorithm 1), round after round.

Step 1 is `tested` (the generator of test cases writes tests for the pool); the steps of a round are the
functions of STEPS, which take what the run has so far and give it back with what they made.
"""

from __future__ import annotations

import dataclasses
from typing import Any

from o1jax.recipes.recipe import Recipe, figures, found
from o1jax.records import InputError


@dataclasses.dataclass(frozen=True)
class State:
    """What a run has so far, as directories of stages ("" of what it has not): the policy; the problems to
    play on, with the tests that judge; the evaluation of the policy that it began with; the problems of the
    warm-up; those with more tests, by which rewards are audited; the generator of test cases; the process
    reward model; every search; and the number of updates that policy gradient has made."""

    policy: str
    pool: str
    began: str = ""
    references: str = ""
    audit: str = ""
    tcg: str = ""
    prm: str = ""
    searches: tuple[str, ...] = ()
    updates: int = 0


def play(recipe: Recipe) -> dict[str, Any]:
    """The whole run: warm-up, step 1, then rounds of steps 2 to 6; returns the summary.

    config["policy"] is what to begin with, weights or a stage; without it, a nano policy that is warmed up.
    config["arms"] names the loop ("self_play") and what stands beside it at equal tokens.
    """
    recipe.check_given()
    held_out, policy, references = recipe.problems("held_out"), recipe.config["policy"], ""
    name = "start" if policy else "warm_up"
    if not policy:
        references, validation = recipe.problems("references"), recipe.problems("validation")
        policy = recipe.stage("warm_up", "warm_up", references=references, validation=validation)
    pool = recipe.problems("pool")
    began = recipe.stage("evaluate", f"{name}_evaluate", policy=policy, problems=held_out)
    for arm in recipe.config["arms"]:
        ARMS[arm](recipe, State(policy, pool, began, references), held_out)
    return recipe.report()


def self_play(recipe: Recipe, state: State, held_out: str) -> None:
    """Steps 1 to 6: each round's data come from the policy that the round before left."""
    for step in recipe.config["steps"]:
        if step not in STEPS:
            raise InputError(f"steps: saw {step!r}, wanted {', '.join(sorted(STEPS))}")
    if recipe.config["generated_tests"]:
        state = tested(recipe, state, held_out)
    for k in range(recipe.config["rounds"]):
        for step in ("search", *recipe.config["steps"]):
            state = STEPS[step](recipe, f"round_{k:02d}", state)
        recipe.stage("evaluate", f"round_{k:02d}/evaluate", policy=state.policy, problems=held_out)
    recipe.stage("evaluate", "search_evaluate", "search_evaluate", policy=state.policy, problems=held_out)


def tested(recipe: Recipe, state: State, held_out: str) -> State:
    """Step 1: trains a generator of test cases, from config["tcg_from"] or from nothing, measures it (on
    tcg_held_out, where the page has that), and has it write tests for the pool; where the page says how to
    draw tests that it never sees (audit), those audit the rewards."""
    problems = recipe.problems("tcg", "tcg_problems")
    sft = recipe.stage("tcg_sft", "tcg/sft", problems=problems, policy=recipe.config["tcg_from"])
    tcg = recipe.stage("tcg_dpo", "tcg/dpo", tcg=sft, problems=problems)
    measured = {"problems": held_out, "policy": state.policy, "wrong": state.began}
    if "tcg_held_out" in recipe.config:
        measured = {"problems": recipe.problems("tcg_held_out")}
    recipe.stage("evaluate_tcg", "tcg/dpo_evaluate", tcg=tcg, **measured)
    pool = recipe.stage("write_tests", "tcg/tests", tcg=tcg, problems=state.pool)
    audit = ""
    if "audit" in recipe.config:
        audit = recipe.stage("check_problems", "problems/audit", "audit", problems=pool)
    return dataclasses.replace(state, tcg=tcg, pool=pool, audit=audit)


def search(recipe: Recipe, at: str, state: State) -> State:
    """Steps 2 and 6: D <- D + D', the trees of the newest policy."""
    place = recipe.stage("search", f"{at}/search", policy=state.policy, problems=state.pool)
    return dataclasses.replace(state, searches=(*state.searches, place))


def policy_sft(recipe: Recipe, at: str, state: State) -> State:
    """Step 3: on every path that passed so far, and on the references of the warm-up."""
    inputs = {"references": state.references, **found(state.searches)}
    policy = recipe.stage("policy_sft", f"{at}/policy_sft", policy=state.policy, **inputs)
    return dataclasses.replace(state, policy=policy)


def prm(recipe: Recipe, at: str, state: State) -> State:
    """Step 4: on every tree so far; continued from the round before, or restarted from the policy."""
    start = recipe.config["prm_start"]
    if start not in ("continue", "restart"):
        raise InputError(f"prm_start: saw {start!r}, wanted 'continue' or 'restart'")
    before = state.prm if start == "continue" else ""
    place = recipe.stage("prm", f"{at}/prm", policy=state.policy, prm=before, **found(state.searches))
    return dataclasses.replace(state, prm=place)


def policy_rl(recipe: Recipe, at: str, state: State) -> State:
    """Step 5: policy gradient; updates are counted over all rounds, for alpha falls with them. What it
    replays are the references of the warm-up and every path that passed so far."""
    recipe = recipe.with_page("policy_rl", first_update=state.updates)
    inputs = {"problems": state.pool, "prm": state.prm, "audit": state.audit}
    if recipe.config["policy_rl"].get("replay", {}).get("examples", 0):
        inputs |= {"references": state.references, **found(state.searches)}
    policy = recipe.stage("policy_rl", f"{at}/policy_rl", policy=state.policy, **inputs)
    return dataclasses.replace(state, policy=policy, updates=figures(policy)["next_update"])


def policy_dpo(recipe: Recipe, at: str, state: State) -> State:
    """Step 5, the other way: preferences in the newest trees."""
    newest = found(state.searches[-1:])
    policy = recipe.stage("policy_dpo", f"{at}/policy_dpo", policy=state.policy, **newest)
    return dataclasses.replace(state, policy=policy)


def tcg_adversarial(recipe: Recipe, at: str, state: State) -> State:
    """The generator's turn: it learns to kill the wrong programs of the newest search, and writes the tests
    of the rounds to come."""
    if not state.tcg:
        raise InputError("steps: tcg_adversarial needs a generator; set generated_tests to True")
    newest, own = found(state.searches[-1:]), f"{recipe.workdir}/problems/pool"
    tcg = recipe.stage("tcg_adversarial", f"{at}/tcg_adversarial", tcg=state.tcg, problems=own, **newest)
    pool = recipe.stage("write_tests", f"{at}/tests", tcg=tcg, problems=own)
    return dataclasses.replace(state, tcg=tcg, pool=pool)


STEPS = {  # of a round, named as the stages; config["steps"] are those after the search, in order
    "search": search,
    "policy_sft": policy_sft,
    "prm": prm,
    "policy_rl": policy_rl,
    "policy_dpo": policy_dpo,
    "tcg_adversarial": tcg_adversarial,
}


def sampling(recipe: Recipe, state: State, held_out: str) -> None:
    """Expert iteration by plain sampling, at the generated and trained tokens of self_play's searches and
    SFT, which must have run: each problem gets the tokens that its search took in the same round."""
    policy, samples = state.policy, []
    for k in range(recipe.config["rounds"]):
        at, match = f"compare/sampling/round_{k:02d}", f"{recipe.workdir}/round_{k:02d}/search"
        inputs = {"policy": policy, "problems": state.pool, "match": match}
        samples.append(recipe.stage("sample", f"{at}/sample", **inputs))
        inputs = {"policy": policy, "references": state.references, **found(samples)}
        policy = recipe.stage("policy_sft", f"{at}/policy_sft", **inputs)
        recipe.stage("evaluate", f"{at}/evaluate", policy=policy, problems=held_out)


def more_warm_up(recipe: Recipe, state: State, held_out: str) -> None:
    """The same number of trained tokens a round, on the references of the warm-up again."""
    _learn_references(recipe, "more_warm_up", state, held_out)


def pool_references(recipe: Recipe, state: State, held_out: str) -> None:
    """The upper bound: SFT on the pool's reference programs, which self-play never trains on."""
    _learn_references(recipe, "pool_references", state, held_out, pool_references=state.pool)


def _learn_references(recipe: Recipe, arm: str, state: State, held_out: str, **more: str) -> None:
    if not state.references:
        raise InputError(
            f"arms: {arm} trains on the warm-up's references, and there is none with a policy given"
        )
    policy = state.policy
    for k in range(recipe.config["rounds"]):
        at, inputs = f"compare/{arm}/round_{k:02d}", {"references": state.references, **more}
        policy = recipe.stage("policy_sft", f"{at}/policy_sft", policy=policy, **inputs)
        recipe.stage("evaluate", f"{at}/evaluate", policy=policy, problems=held_out)


ARMS = {  # self_play comes first; the others stand beside it in compare/
    "self_play": self_play,
    "sampling": sampling,
    "more_warm_up": more_warm_up,
    "pool_references": pool_references,
}
