"""The loop's terms one at a time: arms that go on from one start, at equal tokens, for several seeds.

The start is made once, in start/: problems, and a policy that is warmed up (or given). Of each seed, whose
run is seed_<s>/, every arm plays config["rounds"] rounds with the steps of self-play that its page names, and
is measured on the same held-out problems after the last. In a round an arm

- generates what the arm config["budget_of"] generated in the same round; its page says which share each step
  has,
- trains on config["trained_tokens"].

A step draws as many problems as its share buys by config["tokens_of"], which is what one costs on the mean;
what it leaves goes to the next step. The last, rest, is the scout once more, with answers as long as the
scout's were: so a round's tokens come out equal within a few answers, as those of plain sampling do. A reward
model's training, and the search that calibrates it, come on top.

Arms that find answers alike, from the same policy, share them in their first round (found_of): so they differ
by what they train on alone. Another command with more arms or seeds goes on in the same directory.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from o1jax.recipes.recipe import Recipe, figures, warmed_up
from o1jax.recipes.self_play import STEPS, State, find
from o1jax.records import InputError

FINDS = ("scout", "search", "sample", "rest")


def compare(recipe: Recipe) -> None:
    """Plays config["arms"], in their order, for each of config["seeds"]. Where config["budget_of"] is among
    them, it is the first."""
    recipe.check_given()
    _check(recipe)
    start = dataclasses.replace(recipe, workdir=recipe.workdir / "start")
    state, held_out = _start(start)
    for seed in recipe.config["seeds"]:
        run = dataclasses.replace(recipe, workdir=recipe.workdir / f"seed_{seed}", seed=seed)
        for arm in recipe.config["arms"]:
            play(run, arm, state, held_out)


def play(recipe: Recipe, arm: str, state: State, held_out: str) -> None:
    """All rounds of an arm."""
    for number in range(recipe.config["rounds"]):
        state = a_round(recipe, arm, number, state)
    recipe.stage("evaluate", f"{_path(arm, number)}/evaluate", policy=state.policy, problems=held_out)


def a_round(recipe: Recipe, arm: str, number: int, state: State) -> State:
    """The steps of an arm's page, each with its share of the round's tokens."""
    page, known = recipe.config["pages"][arm], len(state.found)
    if "prm_of" in page:  # which is not trained for this arm again
        state = dataclasses.replace(state, prm=f"{recipe.workdir}/{_path(page['prm_of'], number)}/prm")
    for name, changes in page.get("changes", {}).items():
        recipe = recipe.with_page(name, **changes)
    for step in page["steps"]:
        limited = _limited(recipe, page, step, number, state.found[known:])
        # From the same policy, the same answers: those of the other arm.
        alike = page.get("found_of", arm) if number == 0 and step in FINDS else arm
        if step == "sample":
            state = _sample(limited, alike, number, state)
        elif step == "rest":
            state = find(limited, _path(alike, number), state, "sample", "rest")
        else:
            state = STEPS[step](limited, _path(alike, number), state)
    return state


def _limited(recipe: Recipe, page: Mapping[str, Any], step: str, number: int, found: Sequence[str]) -> Recipe:
    """The recipe with a step's page limited to its share, where it has one; `found`: what the
    round found before it."""
    share = page["shares"].get(step)
    if share is None:
        return recipe
    spent = sum(figures(stage)["generated_tokens"] for stage in found)
    if step in FINDS:
        # Up to the end of this step's share: what the steps before it left is spent here.
        shares = [page["shares"][s] for s in page["steps"][: page["steps"].index(step) + 1] if s in FINDS]
        left = sum(shares) * generated_tokens(recipe, number) - spent
        if step == "rest":
            scouted = figures(found[0])
            cost = scouted["generated_tokens"] / scouted["samples"]
        else:
            cost = recipe.config["tokens_of"][step]
        return recipe.with_page(step, draw={"problems": max(1, round(left / cost))})
    trained = round(share * recipe.config["trained_tokens"])
    if step == "policy_rl":
        left = max(1, generated_tokens(recipe, number) - spent)
        return recipe.with_page(step, generated_tokens=left, trained_tokens=trained)
    return recipe.with_page(step, train_tokens=trained)


def generated_tokens(recipe: Recipe, number: int) -> int:
    """The budget of a round: what the arm config["budget_of"] generated in it."""
    return sum(figures(stage)["generated_tokens"] for stage in _budget_stages(recipe, number))


def _budget_stages(recipe: Recipe, number: int) -> list[str]:
    arm = recipe.config["budget_of"]
    at = f"{recipe.workdir}/{_path(arm, number)}"
    return [f"{at}/{step}" for step in recipe.config["pages"][arm]["steps"] if step in FINDS]


def _sample(recipe: Recipe, arm: str, number: int, state: State) -> State:
    """Plain sampling with the tokens of the budget, and the rule that ended its searches."""
    stages = _budget_stages(recipe, number)
    inputs = {"policy": state.policy, "problems": state.pool}
    inputs |= {f"match_{k}": stage for k, stage in enumerate(stages)}
    made = recipe.stage("sample", f"{_path(arm, number)}/sample", **inputs)
    return dataclasses.replace(state, found=(*state.found, made), searcher=state.policy)


def _start(recipe: Recipe) -> tuple[State, str]:
    """What every arm of every seed goes on from, and the held-out problems."""
    policy, references = recipe.config["policy"], recipe.config["references_from"]
    if not policy:
        policy, references = warmed_up(recipe), f"{recipe.workdir}/warm_up_problems/references"
    pool, held_out = recipe.problems("pool"), recipe.problems("held_out")
    recipe.stage("evaluate", "evaluate", policy=policy, problems=held_out)
    return State(policy, pool, references=references), held_out


def _check(recipe: Recipe) -> None:
    """InputError for arms without a page, steps that are none, and a budget that is not there in time."""
    arms, pages, budget_of = (recipe.config[name] for name in ("arms", "pages", "budget_of"))
    for arm in (*arms, budget_of):
        if arm not in pages:
            raise InputError(f"arms: saw {arm!r}, wanted some of {', '.join(pages)}")
    for arm in arms:
        for step in pages[arm]["steps"]:
            if step not in (known := {*STEPS, *FINDS}):
                raise InputError(
                    f"pages.{arm}.steps: saw {step!r}, wanted some of {', '.join(sorted(known))}"
                )
    if budget_of in arms and arms[0] != budget_of:
        raise InputError(
            f"arms: saw {arms[0]!r} first, wanted {budget_of!r}: its tokens are the others' budget"
        )


def _path(arm: str, number: int) -> str:
    """A round, from 0, of an arm, relative to its seed's run."""
    return f"compare/{arm}/round_{number:02d}"
