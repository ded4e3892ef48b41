"""Step 5 of self-play beside what else could be done with the same tokens.

Each arm goes on from one policy and one process reward model, in rounds. The arm "search" must come first:
what a round of it generates and trains on is what the same round of the others gets.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

from o1jax.recipes import self_play
from o1jax.recipes.recipe import Recipe, figures, found_inputs, warmed_up
from o1jax.recipes.self_play import State
from o1jax.recipes.single_steps import more_trees
from o1jax.records import InputError


def reinforcement(recipe: Recipe) -> dict[str, Any]:
    """The arms of config["arms"], measured on held-out problems. Returns the summary.

    Without them in the config, the policy is a nano one, warmed up, and the process reward model is
    trained as process_rewards does, on pool_trees (searched for if not given) and more_trees. SFT trains
    on the references of the warm-up too: references_from, for a policy that was given.
    """
    recipe.check_given()
    _check_loops(recipe)
    policy, references = recipe.config["policy"], recipe.config["references_from"]
    if not policy:
        policy, references = warmed_up(recipe), f"{recipe.workdir}/warm_up_problems/references"
    pool, held_out = recipe.problems("pool"), recipe.problems("held_out")
    recipe.stage("evaluate", "start_evaluate", policy=policy, problems=held_out)
    prm = recipe.config["prm_from"]
    if not prm:
        trees = recipe.config["pool_trees"]
        trees = trees or recipe.stage("search", "pool_trees", policy=policy, problems=pool)
        prm = recipe.stage("prm", "prm/start", policy=policy, **found_inputs([trees, *more_trees(recipe)]))
    for arm in recipe.config["arms"]:
        state = State(policy, pool, references=references, prm=prm)
        improve = ARMS[arm.split("_")[0]]
        for number in _numbers(recipe, arm):
            state = improve(recipe, arm, number, state)
            recipe.stage("evaluate", f"{_path(arm, number)}/evaluate", policy=state.policy, problems=held_out)
    return recipe.report()


def search(recipe: Recipe, arm: str, number: int, state: State) -> State:
    """Steps 2 and 3 again: search, and SFT on every path that passed."""
    path = _path(arm, number)
    return self_play.policy_sft(recipe, path, self_play.search(recipe, path, state))


def sampling(recipe: Recipe, arm: str, number: int, state: State) -> State:
    """Expert iteration: plain sampling, and SFT on every answer that passed."""
    matched = [f"{_searched(recipe, number)}/search"]
    return self_play.expert_iteration(recipe, _path(arm, number), state, matched)


def dpo(recipe: Recipe, arm: str, number: int, state: State) -> State:
    """Iterative DPO: search, and preferences in the new trees."""
    path = _path(arm, number)
    return self_play.policy_dpo(recipe, path, self_play.search(recipe, path, state))


def rl(recipe: Recipe, arm: str, number: int, state: State) -> State:
    """Policy gradient alone, rewarded as config["arms"][arm] says; the reward model stays as it is. With
    config["rl_at_once"] one run has the tokens of all rounds."""
    numbers = range(recipe.config["rounds"]) if recipe.config["rl_at_once"] else [number]
    changes = recipe.config["arms"][arm] | _budget(recipe, numbers)
    return self_play.policy_rl(recipe.with_page("policy_rl", **changes), _path(arm, number), state)


def loop(recipe: Recipe, arm: str, number: int, state: State) -> State:
    """Steps 2 to 6: search of some problems, SFT, the reward model trained on, and policy gradient with what
    is left of the tokens. config["arms"][arm] holds the problems to search, the share of the trained tokens
    that is SFT's, and changes on the pages of prm and policy_rl; with searched_rounds see loop_at_once."""
    page, path = recipe.config["arms"][arm], _path(arm, number)
    if "searched_rounds" in page:
        return loop_at_once(recipe, arm, number, state)
    budget = _budget(recipe, [number])
    drawn = recipe.with_page("search_pool", **page["search_pool"])
    few = drawn.problems("problems", "search_pool", parent="compare/loop")
    searched = self_play.search(recipe, path, dataclasses.replace(state, pool=few))
    # What search and SFT take of the round's budget, policy gradient does not have.
    left = max(1, budget["generated_tokens"] - figures(searched.found[-1])["generated_tokens"])
    sft_tokens = round(budget["trained_tokens"] * page["sft_share"])
    limits = {"generated_tokens": left, "trained_tokens": budget["trained_tokens"] - sft_tokens}
    recipe = recipe.with_page("policy_sft", train_tokens=sft_tokens).with_page("prm", **page["prm"])
    recipe = recipe.with_page("policy_rl", **page["policy_rl"], **limits)
    state = self_play.policy_sft(recipe, path, dataclasses.replace(searched, pool=state.pool))
    return self_play.policy_rl(recipe, path, self_play.prm(recipe, path, state))


def loop_at_once(recipe: Recipe, arm: str, number: int, state: State) -> State:
    """The loop from the arm "search" on, after the `searched_rounds` of its rounds that the arm's page says:
    the reward model trained on their trees, and one run of policy gradient with the other rounds' tokens."""
    path, page, rounds = _path(arm, number), recipe.config["arms"][arm], range(recipe.config["rounds"])
    searched, others = rounds[: page["searched_rounds"]], rounds[page["searched_rounds"] :]
    recipe = recipe.with_page("prm", **page["prm"])
    recipe = recipe.with_page("policy_rl", **page["policy_rl"], **_budget(recipe, others))
    searches = tuple(f"{_searched(recipe, k)}/search" for k in searched)
    policies = [state.policy, *(f"{_searched(recipe, k)}/policy_sft" for k in searched)]
    state = dataclasses.replace(state, policy=policies[-1], searcher=policies[-2])
    state = dataclasses.replace(state, found=searches, trees=searches)
    return self_play.policy_rl(recipe, path, self_play.prm(recipe, path, state))


ARMS = {"search": search, "sampling": sampling, "dpo": dpo, "rl": rl, "loop": loop}  # by an arm's first word


def _check_loops(recipe: Recipe) -> None:
    """InputError for a loop at once that leaves no round to search, or none to policy gradient."""
    rounds = recipe.config["rounds"]
    for arm, page in recipe.config["arms"].items():
        if "searched_rounds" in page and not 0 < (searched := page["searched_rounds"]) < rounds:
            raise InputError(
                f"arms.{arm}.searched_rounds: saw {searched} with rounds {rounds}; wanted at least 1, and "
                "fewer than rounds, for the others' tokens are policy gradient's"
            )


def _numbers(recipe: Recipe, arm: str) -> Sequence[int]:
    """The rounds of an arm. One that runs at once has the last alone, so that it stands at the end of the
    curves, where the others have spent as many tokens."""
    rounds = range(recipe.config["rounds"])
    at_once = recipe.config["rl_at_once"] and arm.startswith("rl_")
    return rounds[-1:] if at_once or "searched_rounds" in recipe.config["arms"][arm] else rounds


def _searched(recipe: Recipe, number: int) -> str:
    """The directory of a round of the arm "search"."""
    return f"{recipe.workdir}/{_path('search', number)}"


def _path(arm: str, number: int) -> str:
    """A round, from 0, of an arm of config["arms"], relative to the run."""
    return f"compare/{arm}/round_{number:02d}"


def _budget(recipe: Recipe, numbers: Sequence[int]) -> dict[str, int]:
    """The tokens that the arm "search" generated and trained on in these rounds, as limits of policy_rl."""
    rounds = [_searched(recipe, number) for number in numbers]
    return {
        "generated_tokens": sum(figures(f"{path}/search")["generated_tokens"] for path in rounds),
        "trained_tokens": sum(figures(f"{path}/policy_sft")["trained_tokens"] for path in rounds),
    }
