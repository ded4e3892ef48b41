"""Self-play: algorithm 1 of O1-CODER (arXiv 2412.00154), its six steps in rounds.

    step 1      train_tcg    a generator of test cases, which writes the tests that judge every program
    each round:
      2 and 6   search       trees D' of the newest policy; D <- D + D'
      3         policy_sft   on the paths in D whose programs pass
      4         prm          a process reward model, on all of D
      5         policy_rl    the policy gets the reward phi of outcome and process

A step is a function from what the run has so far (State) to what it has then; the work is done by the stage
of its name. Where this departs from the paper:

- Step 6 of one round is step 2 of the next: a round begins with the search of the newest policy.
- The config fixes the number of rounds. After each, the policy is evaluated on held-out problems, which
  nothing is trained on.
- The generator writes tests once for all rounds, not anew in step 5. Only cases that the reference program
  confirms judge; the problems' own tests judge beside them.
- Without a given policy, a nano model is warmed up on a few references, which steps 3 and 5 replay.
- config["find"] may name plain sampling beside the search of a round, or in its place.
- Not in the paper: DPO instead of or after step 5 (policy_dpo), and the generator's turn (tcg_adversarial).
"""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

from o1jax.recipes.recipe import Recipe, figures, found_inputs
from o1jax.records import InputError


@dataclasses.dataclass(frozen=True)
class State:
    """What a run has so far: directories of stages, "" for what it has not."""

    policy: str
    pool: str  # the problems to play on, with the tests that judge
    first_evaluation: str = ""  # of the first policy; its wrong answers measure the generator
    references: str = ""  # the problems of the warm-up
    audit: str = ""  # the pool with more tests, which rewards are audited by and never made of
    tcg: str = ""  # the generator of test cases
    prm: str = ""  # the process reward model
    searches: tuple[str, ...] = ()  # D, the oldest first
    updates: int = 0  # of policy gradient, over all rounds


def play(recipe: Recipe) -> dict[str, Any]:
    """The whole run: the warm-up, then every arm of config["arms"]; returns the summary. config["policy"] is
    what to begin with, weights or a stage; without it, a nano policy that is warmed up. config["arms"] names
    the loop ("self_play") and what stands beside it at equal tokens."""
    recipe.check_given()
    held_out, policy, references = recipe.problems("held_out"), recipe.config["policy"], ""
    name = "start" if policy else "warm_up"
    if not policy:
        references, validation = recipe.problems("references"), recipe.problems("validation")
        policy = recipe.stage("warm_up", "warm_up", references=references, validation=validation)
    pool = recipe.problems("pool")
    evaluation = evaluate(recipe, f"{name}_", policy, held_out)
    for arm in recipe.config["arms"]:
        ARMS[arm](recipe, State(policy, pool, evaluation, references), held_out)
    return recipe.report()


def self_play(recipe: Recipe, state: State, held_out: str) -> None:
    """Algorithm 1: each round's data come from the policy that the round before left."""
    steps = (*recipe.config["find"], *recipe.config["steps"])
    for step in steps:  # all of them first: the last may be hours away
        if step not in STEPS:
            raise InputError(f"steps: saw {step!r}, wanted {', '.join(sorted(STEPS))}")
    if recipe.config["generated_tests"]:
        state = train_tcg(recipe, state, held_out)
    for k in range(recipe.config["rounds"]):
        directory = f"round_{k:02d}"
        for step in steps:
            state = STEPS[step](recipe, directory, state)
        evaluate(recipe, f"{directory}/", state.policy, held_out)
    if "search_evaluate" in recipe.config:
        recipe.stage("evaluate", "search_evaluate", "search_evaluate", policy=state.policy, problems=held_out)


def evaluate(recipe: Recipe, prefix: str, policy: str, held_out: str) -> str:
    """The policy on held-out problems by every page of config["evaluations"]; returns the first's directory,
    `prefix` before its name."""
    pages = recipe.config["evaluations"]
    made = [recipe.stage("evaluate", prefix + p, p, policy=policy, problems=held_out) for p in pages]
    return made[0]


def train_tcg(recipe: Recipe, state: State, held_out: str) -> State:
    """Step 1: a generator from config["tcg_from"] or from nothing, measured, that writes tests for the pool.

    It is measured on config["tcg_held_out"], where the policy is evaluated on another kind of problems than
    the generator learns from; else on `held_out`, by the policy's programs too. With config["audit"], more
    tests are drawn, which no reward is made of: rewards are audited by them.
    """
    problems = recipe.problems("tcg", "tcg_problems")
    sft = recipe.stage("tcg_sft", "tcg/sft", problems=problems, policy=recipe.config["tcg_from"])
    tcg = recipe.stage("tcg_dpo", "tcg/dpo", tcg=sft, problems=problems)
    measured = {"problems": held_out, "policy": state.policy, "wrong": state.first_evaluation}
    if "tcg_held_out" in recipe.config:
        measured = {"problems": recipe.problems("tcg_held_out")}
    recipe.stage("evaluate_tcg", "tcg/dpo_evaluate", tcg=tcg, **measured)
    pool = recipe.stage("write_tests", "tcg/tests", tcg=tcg, problems=state.pool)
    audit = ""
    if "audit" in recipe.config:
        audit = recipe.stage("check_problems", "problems/audit", "audit", problems=pool)
    return dataclasses.replace(state, tcg=tcg, pool=pool, audit=audit)


def search(recipe: Recipe, directory: str, state: State) -> State:
    """Steps 2 and 6: D <- D + D', the trees of the newest policy."""
    trees = recipe.stage("search", f"{directory}/search", policy=state.policy, problems=state.pool)
    return dataclasses.replace(state, searches=(*state.searches, trees))


def sample(recipe: Recipe, directory: str, state: State) -> State:
    """Whole answers of the newest policy, judged: D grows by them as by trees."""
    answers = recipe.stage("sample", f"{directory}/sample", policy=state.policy, problems=state.pool)
    return dataclasses.replace(state, searches=(*state.searches, answers))


def policy_sft(recipe: Recipe, directory: str, state: State) -> State:
    """Step 3: on every path that passed so far, and on the references of the warm-up."""
    # All of D and the references: the newest paths alone are few, and the policy would forget the rest.
    inputs = {"references": state.references, **found_inputs(state.searches)}
    policy = recipe.stage("policy_sft", f"{directory}/policy_sft", policy=state.policy, **inputs)
    return dataclasses.replace(state, policy=policy)


def prm(recipe: Recipe, directory: str, state: State) -> State:
    """Step 4: on every tree so far; continued from the round before, or restarted from the policy."""
    start = recipe.config["prm_start"]
    if start not in ("continue", "restart"):
        raise InputError(f"prm_start: saw {start!r}, wanted 'continue' or 'restart'")
    before = state.prm if start == "continue" else ""
    inputs = {"prm": before, **found_inputs(state.searches)}
    model = recipe.stage("prm", f"{directory}/prm", policy=state.policy, **inputs)
    return dataclasses.replace(state, prm=model)


def policy_rl(recipe: Recipe, directory: str, state: State) -> State:
    """Step 5: policy gradient, rewarded by phi(R, r_1..m). It may replay the references of the warm-up and
    every path that passed so far."""
    # alpha, the weight of the outcome in phi, falls with the updates of the whole run, not of a round.
    recipe = recipe.with_page("policy_rl", first_update=state.updates)
    inputs = {"problems": state.pool, "prm": state.prm, "audit": state.audit}
    if recipe.config["policy_rl"].get("replay", {}).get("examples", 0):
        inputs |= {"references": state.references, **found_inputs(state.searches)}
    policy = recipe.stage("policy_rl", f"{directory}/policy_rl", policy=state.policy, **inputs)
    return dataclasses.replace(state, policy=policy, updates=figures(policy)["next_update"])


def policy_dpo(recipe: Recipe, directory: str, state: State) -> State:
    """Step 5, the other way: preferences in the newest trees."""
    # The newest alone: older pairs are of steps that the policy of today would hardly take.
    newest = found_inputs(state.searches[-1:])
    policy = recipe.stage("policy_dpo", f"{directory}/policy_dpo", policy=state.policy, **newest)
    return dataclasses.replace(state, policy=policy)


def tcg_adversarial(recipe: Recipe, directory: str, state: State) -> State:
    """The generator's turn: it learns to kill the wrong programs of the newest search, and writes the tests
    of the rounds to come."""
    if not state.tcg:
        raise InputError("steps: tcg_adversarial needs a generator; set generated_tests to True")
    # The pool as it was before step 1, or the tests of an older generator would stay among those that judge.
    own = f"{recipe.workdir}/problems/pool"
    inputs = {"tcg": state.tcg, "problems": own, **found_inputs(state.searches[-1:])}
    tcg = recipe.stage("tcg_adversarial", f"{directory}/tcg_adversarial", **inputs)
    pool = recipe.stage("write_tests", f"{directory}/tests", tcg=tcg, problems=own)
    return dataclasses.replace(state, tcg=tcg, pool=pool)


# Of a round, named as the stages: config["find"] and then config["steps"], in order.
STEPS = {
    step.__name__: step for step in (search, sample, policy_sft, prm, policy_rl, policy_dpo, tcg_adversarial)
}


def sampling(recipe: Recipe, state: State, held_out: str) -> None:
    """Expert iteration by plain sampling, at the generated and trained tokens of self_play's searches and
    SFT, which must have run: each problem gets the tokens that its search took in the same round."""
    for k in range(recipe.config["rounds"]):
        directory = f"compare/sampling/round_{k:02d}"
        state = expert_iteration(recipe, directory, state, f"{recipe.workdir}/round_{k:02d}/search")
        recipe.stage("evaluate", f"{directory}/evaluate", policy=state.policy, problems=held_out)


def expert_iteration(recipe: Recipe, directory: str, state: State, match: str) -> State:
    """A round of it: plain sampling with the tokens of the search `match`, and SFT on every answer that
    passed so far."""
    inputs = {"policy": state.policy, "problems": state.pool, "match": match}
    samples = recipe.stage("sample", f"{directory}/sample", **inputs)
    return policy_sft(recipe, directory, dataclasses.replace(state, searches=(*state.searches, samples)))


def more_sft(recipe: Recipe, state: State, held_out: str, *, arm: str) -> None:
    """The same number of trained tokens a round, in SFT on the references of the warm-up again. The upper
    bound, pool_references, trains on the pool's reference programs too, which self-play never does."""
    if not state.references:
        raise InputError(
            f"arms: {arm} trains on the warm-up's references, and there is none with a policy given"
        )
    policy, inputs = state.policy, {"references": state.references}
    if arm == "pool_references":
        inputs["pool_references"] = state.pool
    for k in range(recipe.config["rounds"]):
        directory = f"compare/{arm}/round_{k:02d}"
        policy = recipe.stage("policy_sft", f"{directory}/policy_sft", policy=policy, **inputs)
        recipe.stage("evaluate", f"{directory}/evaluate", policy=policy, problems=held_out)


ARMS = {  # self_play comes first, for the others get its tokens; they stand in compare/
    "self_play": self_play,
    "sampling": sampling,
    **{arm: functools.partial(more_sft, arm=arm) for arm in ("more_warm_up", "pool_references")},
}
