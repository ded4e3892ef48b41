"""Recipes for one step each: a search, a generator of test cases, a process reward model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from etils import epath

from o1jax.recipes.recipe import Recipe, found_inputs, warmed_up
from o1jax.stages.manifest import read_manifest


def search(recipe: Recipe) -> dict[str, Any]:
    """Searches problems of a file, a data set or a finished stage once; returns the search's manifest.
    Without a policy in the config, a nano policy is warmed up on the ladder first."""
    recipe.check_given()
    problems = recipe.config["problems"]
    if not (epath.Path(problems) / "manifest.json").exists():
        recipe = recipe.with_page("check_problems", source=problems)
        problems = recipe.stage("check_problems", "problems")
    policy = recipe.config["policy"] or warmed_up(recipe)
    return read_manifest(epath.Path(recipe.stage("search", "search", policy=policy, problems=problems)))


def test_generator(recipe: Recipe) -> dict[str, Any]:
    """Step 1: a test-case generator in each form of config["forms"] (plain, traced), by SFT on the form's
    train_tokens and then DPO with each page of its dpo (kinds of rejected answers), all measured on held-out
    problems; the last one chooses among a policy's programs. Returns the summary.

    The generator starts from the weights config["tcg_from"], or from nothing. Without a policy in the
    config, a nano policy is warmed up on the ladder first.
    """
    recipe.check_given()
    problems, held_out = recipe.problems("tcg", "tcg_problems"), recipe.problems("held_out")
    policy = recipe.config["policy"] or warmed_up(recipe)
    wrong = recipe.stage("evaluate", "tcg/policy", policy=policy, problems=held_out)
    measured = {"problems": held_out, "policy": policy, "wrong": wrong}
    for form, page in recipe.config["forms"].items():
        formed = _in_form(recipe, form, page["train_tokens"])
        weights = recipe.config["tcg_from"]
        sft = formed.stage("tcg_sft", f"tcg/{form}/sft", problems=problems, policy=weights)
        formed.stage("evaluate_tcg", f"tcg/{form}/sft_evaluate", tcg=sft, **measured)
        for arm, changes in page["dpo"].items():
            changed = formed.with_page("tcg_dpo", **changes)
            tcg = changed.stage("tcg_dpo", f"tcg/{form}/{arm}", tcg=sft, problems=problems)
            formed.stage("evaluate_tcg", f"tcg/{form}/{arm}_evaluate", tcg=tcg, **measured)
    formed.stage("evaluate_selection", "tcg/selection", policy=policy, tcg=tcg, problems=held_out)
    return recipe.report()


def _in_form(recipe: Recipe, form: str, train_tokens: int) -> Recipe:
    """The recipe with every page of the generator in one form, and its SFT on `train_tokens`."""
    # All four pages or none: a generator that learned traces and is asked for plain cases writes nonsense.
    traced = form == "traced"
    for page in ("tcg_sft", "tcg_dpo"):
        recipe = recipe.with_page(page, cases={**recipe.config[page]["cases"], "traced": traced})
    for page in ("evaluate_tcg", "evaluate_selection"):
        recipe = recipe.with_page(page, write={**recipe.config[page]["write"], "traced": traced})
    return recipe.with_page("tcg_sft", train_tokens=train_tokens)


def process_rewards(recipe: Recipe) -> dict[str, Any]:
    """Step 4: a process reward model on searched trees of a pool, with each of three objectives, measured on
    trees of held-out problems; the hard one then guides search and choice. Returns the summary.

    Trees are searched for, unless the config names finished searches (pool_trees, held_out_trees); those of
    more_trees (with commas between them) are learned from too. Without a policy in the config, a nano policy
    is warmed up on the ladder first.
    """
    recipe.check_given()
    policy = recipe.config["policy"] or warmed_up(recipe)
    held_out = recipe.problems("held_out")
    trees, held_out_trees = recipe.config["pool_trees"], recipe.config["held_out_trees"]
    if not trees:
        trees = recipe.stage("search", "pool_trees", policy=policy, problems=recipe.problems("pool"))
    if not held_out_trees:
        held_out_trees = recipe.stage("search", "held_out_trees", policy=policy, problems=held_out)
    inputs = {"held_out": held_out_trees, **found_inputs([trees, *more_trees(recipe)])}
    prm = {}
    for objective in ("hard", "soft", "pair"):
        arm = recipe.with_page("prm", objective=objective)
        prm[objective] = arm.stage("prm", f"prm/{objective}", policy=policy, **inputs)
    # Of the three, only the scores of the hard one are how likely a step is to lead to a pass.
    recipe.stage("evaluate", "prm/evaluate", policy=policy, problems=held_out, prm=prm["hard"])
    return recipe.report()


def more_trees(recipe: Recipe) -> Sequence[str]:
    """config["more_trees"]: finished searches, with commas between them."""
    return [directory for directory in recipe.config["more_trees"].split(",") if directory]
