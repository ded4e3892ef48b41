"""Self-play: algorithm 1 of O1-CODER (arXiv 2412.00154), its six steps in rounds.

    step 1      train_tcg    a generator of test cases, which writes the tests that judge every program
    each round:
      2 and 6   scout        one answer of the newest policy to each of many problems; D <- D + D'
                search       trees D', of the problems whose answers are most likely to be mixed
      3         policy_sft   on the paths in D whose programs pass
      4         prm          a process reward model, on all trees of D
      5         policy_rl    the policy gets the reward phi of outcome and process

A step is a function from what the run has so far (State) to what it has then; the work is done by the stage
of its name. Where this departs from the paper:

- Step 6 of one round is step 2 of the next: a round begins with the search of the newest policy.
- The config fixes the number of rounds. After each, the policy is evaluated on held-out problems, which
  nothing is trained on.
- The generator writes tests once for all rounds, not anew in step 5. Only cases that the reference program
  confirms judge; the problems' own tests judge beside them.
- Without a given policy, a nano model is warmed up on a few references, which steps 3 and 5 replay.
- A round scouts before it searches. config["find"] names what finds D': scout, search, and sample, plain
  sampling beside the search or in its place. Pages that draw problems (draw.problems) draw them by all of D.
- The process reward model starts from the policy that searched, not from the one that SFT then trained on
  the passing paths of the same problems: that one tells them by heart. It is calibrated on trees of other
  problems (config["calibration"]).
- Not in the paper: DPO instead of or after step 5 (policy_dpo), and the generator's turn (tcg_adversarial).
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping, Sequence
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
    found: tuple[str, ...] = ()  # D, the oldest first: stages of search and sampling
    trees: tuple[str, ...] = ()  # those of them that searched
    searcher: str = ""  # the policy that found the newest of D
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
    if needless := sorted({"prm", "policy_dpo"} & {*steps}) if "search" not in steps else []:
        raise InputError(
            f"find: saw {recipe.config['find']!r} without 'search', which {needless[0]} learns from"
        )
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
    state = find(recipe, directory, state, "search", "search")
    return dataclasses.replace(state, trees=(*state.trees, state.found[-1]))


def sample(recipe: Recipe, directory: str, state: State) -> State:
    """Whole answers of the newest policy, judged: D grows by them as by trees."""
    return find(recipe, directory, state, "sample", "sample")


def scout(recipe: Recipe, directory: str, state: State) -> State:
    """The same by the page scout: few answers each to many problems, which tell where to search."""
    return find(recipe, directory, state, "sample", "scout")


def find(recipe: Recipe, directory: str, state: State, stage: str, page: str) -> State:
    """D <- D + D', what a stage of search or sampling finds with the settings on `page`."""
    inputs = found_inputs(state.found if _draws(recipe.config[page]) else ())
    inputs |= {"policy": state.policy, "problems": state.pool}
    new = recipe.stage(stage, f"{directory}/{page}", page, **inputs)
    return dataclasses.replace(state, found=(*state.found, new), searcher=state.policy)


def _draws(page: Mapping[str, Any]) -> bool:
    """Whether a page of search or sampling chooses among the problems."""
    return bool(page.get("draw", {}).get("problems", 0))


def policy_sft(recipe: Recipe, directory: str, state: State) -> State:
    """Step 3: on every path that passed so far, and on the references of the warm-up. A page with weights for
    the steps of failing answers has them valued by the reward model, if an earlier step trained one."""
    page = recipe.config["policy_sft"]
    # All of D and the references: the newest paths alone are few, and the policy would forget the rest.
    inputs = {"references": state.references, **found_inputs(state.found)}
    if page.get("prompt") == "bare":
        inputs["problems"] = state.pool
    if any(page.get(term, {}).get("weight", 0) for term in ("progress", "negatives")):
        inputs["prm"] = state.prm
    policy = recipe.stage("policy_sft", f"{directory}/policy_sft", policy=state.policy, **inputs)
    return dataclasses.replace(state, policy=policy)


def prm(recipe: Recipe, directory: str, state: State) -> State:
    """Step 4: on every tree so far, from the policy that searched; continued from the round before, or
    restarted. With config["calibration"], it is calibrated on trees of those problems."""
    start = recipe.config["prm_start"]
    if start not in ("continue", "restart"):
        raise InputError(f"prm_start: saw {start!r}, wanted 'continue' or 'restart'")
    before = state.prm if start == "continue" else ""
    inputs = {"prm": before, **found_inputs(state.trees)}
    if "calibration" in recipe.config:
        others = recipe.problems("calibration")
        # Searched as the pool is, all of them: nothing is known of these problems to draw by.
        alike = recipe.with_page("search", draw={"problems": 0})
        path = f"{directory}/calibration"
        inputs["calibration"] = alike.stage("search", path, policy=state.searcher, problems=others)
    model = recipe.stage("prm", f"{directory}/prm", policy=state.searcher, **inputs)
    return dataclasses.replace(state, prm=model)


def policy_rl(recipe: Recipe, directory: str, state: State) -> State:
    """Step 5: policy gradient, rewarded by phi(R, r_1..m). It may replay the references of the warm-up and
    every path that passed so far, and draws by difficulty know what was found."""
    # alpha, the weight of the outcome in phi, falls with the updates of the whole run, not of a round.
    recipe = recipe.with_page("policy_rl", first_update=state.updates)
    page = recipe.config["policy_rl"]
    inputs = {"problems": state.pool, "prm": state.prm, "audit": state.audit}
    if page.get("replay", {}).get("examples", 0):
        inputs |= {"references": state.references, **found_inputs(state.found)}
    elif page.get("draw") == "by_difficulty" and state.found:
        inputs["scout"] = state.found[-1]
    policy = recipe.stage("policy_rl", f"{directory}/policy_rl", policy=state.policy, **inputs)
    return dataclasses.replace(state, policy=policy, updates=figures(policy)["next_update"])


def policy_dpo(recipe: Recipe, directory: str, state: State) -> State:
    """Step 5, the other way: preferences in the newest trees."""
    # The newest alone: older pairs are of steps that the policy of today would hardly take.
    newest = found_inputs(state.trees[-1:])
    policy = recipe.stage("policy_dpo", f"{directory}/policy_dpo", policy=state.policy, **newest)
    return dataclasses.replace(state, policy=policy)


def tcg_adversarial(recipe: Recipe, directory: str, state: State) -> State:
    """The generator's turn: it learns to kill the wrong programs of the newest search, and writes the tests
    of the rounds to come."""
    if not state.tcg:
        raise InputError("steps: tcg_adversarial needs a generator; set generated_tests to True")
    # The pool as it was before step 1, or the tests of an older generator would stay among those that judge.
    own = f"{recipe.workdir}/problems/pool"
    inputs = {"tcg": state.tcg, "problems": own, **found_inputs(state.found[-1:])}
    tcg = recipe.stage("tcg_adversarial", f"{directory}/tcg_adversarial", **inputs)
    pool = recipe.stage("write_tests", f"{directory}/tests", tcg=tcg, problems=own)
    return dataclasses.replace(state, tcg=tcg, pool=pool)


# Of a round, named as the stages: config["find"] and then config["steps"], in order.
STEPS = {
    step.__name__: step
    for step in (scout, search, sample, policy_sft, prm, policy_rl, policy_dpo, tcg_adversarial)
}


def sampling(recipe: Recipe, state: State, held_out: str) -> None:
    """Expert iteration by plain sampling, at the generated and trained tokens of self_play's searches and
    SFT, which must have run: the tokens of a round in all, and the rule that ended its searches."""
    for k in range(recipe.config["rounds"]):
        directory, played = f"compare/sampling/round_{k:02d}", f"{recipe.workdir}/round_{k:02d}"
        matched = [f"{played}/{page}" for page in recipe.config["find"]]
        state = expert_iteration(recipe, directory, state, matched)
        recipe.stage("evaluate", f"{directory}/evaluate", policy=state.policy, problems=held_out)


def expert_iteration(recipe: Recipe, directory: str, state: State, matched: Sequence[str]) -> State:
    """A round of it: plain sampling with the tokens of these stages, and SFT on every answer that passed so
    far."""
    inputs = {"policy": state.policy, "problems": state.pool}
    inputs |= {f"match_{k}": stage for k, stage in enumerate(matched)}
    samples = recipe.stage("sample", f"{directory}/sample", **inputs)
    return policy_sft(recipe, directory, dataclasses.replace(state, found=(*state.found, samples)))


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
