"""Step 5 beside what else could be done with the same tokens.

Each arm goes on from one policy and one process reward model, in rounds; the arm "search" comes first:
what a round of it generates and trains on is what the others get.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

from o1jax.recipes import self_play
from o1jax.recipes.recipe import Recipe, figures, found, warmed_up
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
        searches = found([trees, *more_trees(recipe)])
        prm = recipe.stage("prm", "prm/start", policy=policy, **searches)
    for arm in recipe.config["arms"]:
        state = State(policy, pool, references=references, prm=prm)
        improve = ARMS[arm.split("_")[0]]
        for at in _rounds(recipe, arm):
            state = improve(recipe, at, state)
            recipe.stage("evaluate", f"{at}/evaluate", policy=state.policy, problems=held_out)
    return recipe.report()


def search(recipe: Recipe, at: str, state: State) -> State:
    """Steps 2 and 3 again: search, and SFT on every path that passed."""
    return self_play.policy_sft(recipe, at, self_play.search(recipe, at, state))


def sampling(recipe: Recipe, at: str, state: State) -> State:
    """Expert iteration: plain sampling, and SFT on every answer that passed."""
    inputs = {"problems": state.pool, "match": f"{_same_round(recipe, at)}/search"}
    sample = recipe.stage("sample", f"{at}/sample", policy=state.policy, **inputs)
    return self_play.policy_sft(recipe, at, dataclasses.replace(state, searches=(*state.searches, sample)))


def dpo(recipe: Recipe, at: str, state: State) -> State:
    """Iterative DPO: search, and preferences in the new trees."""
    return self_play.policy_dpo(recipe, at, self_play.search(recipe, at, state))


def rl(recipe: Recipe, at: str, state: State) -> State:
    """Policy gradient alone, rewarded as config["arms"][arm] says; the reward model stays as it is. With
    config["rl_at_once"] one run has the tokens of all rounds."""
    rounds = _rounds(recipe, "search") if recipe.config["rl_at_once"] else [at]
    generated, trained = _budget(recipe, rounds)
    changes = recipe.config["arms"][at.split("/")[1]]
    limited = recipe.with_page("policy_rl", **changes, generated_tokens=generated, trained_tokens=trained)
    return self_play.policy_rl(limited, at, state)


def loop(recipe: Recipe, at: str, state: State) -> State:
    """Steps 2 to 6: search of some problems, SFT, the reward model trained on, and policy gradient with what
    is left of the tokens. config["arms"][arm] holds the problems to search, the share of the trained tokens
    that is SFT's, and changes on the pages of prm and policy_rl; with searched_rounds see loop_at_once."""
    page, (generated, trained) = recipe.config["arms"][at.split("/")[1]], _budget(recipe, [at])
    if "searched_rounds" in page:
        return loop_at_once(recipe, at, state)
    few = recipe.with_page("search_pool", **page["search_pool"])
    few = few.problems("problems", "search_pool", directory="compare/loop")
    searched = self_play.search(recipe, at, dataclasses.replace(state, pool=few))
    left = max(1, generated - figures(searched.searches[-1])["generated_tokens"])
    sft_tokens = round(trained * page["sft_share"])
    recipe = recipe.with_page("policy_sft", train_tokens=sft_tokens).with_page("prm", **page["prm"])
    limits = {"generated_tokens": left, "trained_tokens": trained - sft_tokens}
    recipe = recipe.with_page("policy_rl", **page["policy_rl"], **limits)
    state = self_play.prm(
        recipe, at, self_play.policy_sft(recipe, at, dataclasses.replace(searched, pool=state.pool))
    )
    return self_play.policy_rl(recipe, at, state)


def loop_at_once(recipe: Recipe, at: str, state: State) -> State:
    """The loop from the arm "search" on, after the `searched_rounds` of its rounds that the arm's page says:
    the reward model trained on their trees, and one run of policy gradient with the other rounds' tokens."""
    page, rounds = recipe.config["arms"][at.split("/")[1]], _rounds(recipe, "search")
    searched, others = rounds[: page["searched_rounds"]], rounds[page["searched_rounds"] :]
    generated, trained = _budget(recipe, others)
    limits = {"generated_tokens": generated, "trained_tokens": trained}
    recipe = recipe.with_page("prm", **page["prm"]).with_page("policy_rl", **page["policy_rl"], **limits)
    searches = tuple(f"{recipe.workdir}/{round}/search" for round in searched)
    policy = f"{recipe.workdir}/{searched[-1]}/policy_sft"
    state = dataclasses.replace(state, policy=policy, searches=searches)
    return self_play.policy_rl(recipe, at, self_play.prm(recipe, at, state))


ARMS = {"search": search, "sampling": sampling, "dpo": dpo, "rl": rl, "loop": loop}


def _check_loops(recipe: Recipe) -> None:
    """InputError for a loop at once that leaves no round to search, or none to policy gradient."""
    rounds = recipe.config["rounds"]
    for arm, page in recipe.config["arms"].items():
        if "searched_rounds" in page and not 0 < (searched := page["searched_rounds"]) < rounds:
            raise InputError(
                f"arms.{arm}.searched_rounds: saw {searched} with rounds {rounds}; wanted at least 1, and "
                "fewer than rounds, for the others' tokens are policy gradient's"
            )


def _rounds(recipe: Recipe, arm: str) -> Sequence[str]:
    rounds = [f"compare/{arm}/round_{k:02d}" for k in range(recipe.config["rounds"])]
    at_once = recipe.config["rl_at_once"] and arm.startswith("rl_")
    return rounds[-1:] if at_once or "searched_rounds" in recipe.config["arms"].get(arm, {}) else rounds


def _same_round(recipe: Recipe, at: str) -> str:
    """Where the arm "search" has the round of another arm's `at`."""
    return str(recipe.workdir / "compare" / "search" / at.split("/")[-1])


def _budget(recipe: Recipe, rounds: Sequence[str]) -> tuple[int, int]:
    """The tokens that the arm "search" generated and trained on in the same rounds."""
    places = [_same_round(recipe, at) for at in rounds]
    generated = sum(figures(f"{place}/search")["generated_tokens"] for place in places)
    return generated, sum(figures(f"{place}/policy_sft")["trained_tokens"] for place in places)
