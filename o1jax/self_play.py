"""Self-play, as a recipe: the steps of O1-CODER (arXiv 2412.00154, algorithm 1) that there are.

Every step is a stage: directories in, one directory out, run in a process of its own. Running a
recipe again goes on where it stopped. Does not read flags (launch/self_play.py does).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from etils import epath

from o1jax.parallel.seeds import fold_seed
from o1jax.report import summary
from o1jax.stages.manifest import StageSpec, read_manifest
from o1jax.stages.run import run_in_child


@dataclasses.dataclass(frozen=True)
class Recipe:
    """A run: its directory, the resolved config page (stage settings by name), and the seed."""

    workdir: epath.Path
    config: Mapping[str, Any]
    seed: int

    def stage(self, name: str, place: str, page: str = "", **inputs: str) -> str:
        """Runs stage `name` with the settings on `page` into workdir/place, and returns that directory.

        `inputs` are directories of finished stages. The seed folds in the place: no two stages share one.
        """
        out = self.workdir / place
        spec = StageSpec(
            stage=name,
            config=self.config[page or name],
            seed=fold_seed(self.seed, place),
            inputs=inputs,
        )
        run_in_child(out, spec)
        summary.write(self.workdir)
        return str(out)


def play(recipe: Recipe) -> dict[str, Any]:
    """The whole run: warm-up, then rounds of search and learning; returns the summary."""
    references = recipe.stage("check_problems", "problems/references", "references")
    validation = recipe.stage("check_problems", "problems/validation", "validation")
    pool = recipe.stage("check_problems", "problems/pool", "pool")
    held_out = recipe.stage("check_problems", "problems/held_out", "held_out")
    policy = recipe.stage("warm_up", "warm_up", references=references, validation=validation)
    recipe.stage("evaluate", "warm_up_evaluate", policy=policy, problems=held_out)
    for arm in recipe.config["arms"]:
        ARMS[arm](recipe, policy, references, pool, held_out)
    return summary.write(recipe.workdir)


def search_and_learn(recipe: Recipe, policy: str, references: str, pool: str, held_out: str) -> None:
    """Steps 2, 3 and 6: search with the newest policy, learn from every path that passed, again."""
    found: dict[str, str] = {}
    for k in range(recipe.config["rounds"]):
        at = f"round_{k:02d}"
        found[f"found_{k}"] = recipe.stage("search", f"{at}/search", policy=policy, problems=pool)
        policy = recipe.stage("policy_sft", f"{at}/policy_sft", policy=policy, references=references, **found)
        recipe.stage("evaluate", f"{at}/evaluate", policy=policy, problems=held_out)
    recipe.stage("evaluate", "search_evaluate", "search_evaluate", policy=policy, problems=held_out)


def sample_and_learn(recipe: Recipe, policy: str, references: str, pool: str, held_out: str) -> None:
    """Expert iteration by plain sampling, at the generated and trained tokens of `search_and_learn`,
    which must have run: each problem gets the tokens that its search took in the same round."""
    found: dict[str, str] = {}
    for k in range(recipe.config["rounds"]):
        at, match = f"compare/sampling/round_{k:02d}", str(recipe.workdir / f"round_{k:02d}/search")
        found[f"found_{k}"] = recipe.stage(
            "sample", f"{at}/sample", policy=policy, problems=pool, match=match
        )
        policy = recipe.stage("policy_sft", f"{at}/policy_sft", policy=policy, references=references, **found)
        recipe.stage("evaluate", f"{at}/evaluate", policy=policy, problems=held_out)


def more_warm_up(recipe: Recipe, policy: str, references: str, pool: str, held_out: str) -> None:
    """The same number of trained tokens a round, on the references of the warm-up again."""
    _learn_references(recipe, "more_warm_up", policy, held_out, references=references)


def pool_references(recipe: Recipe, policy: str, references: str, pool: str, held_out: str) -> None:
    """The upper bound: SFT on the pool's reference programs, which self-play never trains on."""
    _learn_references(
        recipe, "pool_references", policy, held_out, references=references, pool_references=pool
    )


def _learn_references(recipe: Recipe, arm: str, policy: str, held_out: str, **problems: str) -> None:
    for k in range(recipe.config["rounds"]):
        at = f"compare/{arm}/round_{k:02d}"
        policy = recipe.stage("policy_sft", f"{at}/policy_sft", policy=policy, **problems)
        recipe.stage("evaluate", f"{at}/evaluate", policy=policy, problems=held_out)


ARMS = {  # "search" is self-play itself, and comes first; the others stand beside it in compare/
    "search": search_and_learn,
    "sampling": sample_and_learn,
    "more_warm_up": more_warm_up,
    "pool_references": pool_references,
}


def search(recipe: Recipe) -> dict[str, Any]:
    """Searches problems of a file, a data set or a finished stage once; returns the search's manifest.

    Without a policy in the config, a nano policy is warmed up on the ladder first.
    """
    problems, policy = recipe.config["problems"], recipe.config["policy"]
    if not (epath.Path(problems) / "manifest.json").exists():
        page = {**recipe.config["check_problems"], "source": problems}
        recipe = dataclasses.replace(recipe, config={**recipe.config, "check_problems": page})
        problems = recipe.stage("check_problems", "problems")
    if not policy:
        policy = _warmed_up(recipe)
    return read_manifest(epath.Path(recipe.stage("search", "search", policy=policy, problems=problems)))


def test_generator(recipe: Recipe) -> dict[str, Any]:
    """Step 1: a test-case generator in each form of config["forms"] (plain, traced), by SFT and then DPO
    with each of the form's kinds of rejected answers, all measured on held-out problems; the last one
    chooses among a policy's programs. Returns the summary.

    The generator starts from the weights config["tcg_from"], or from nothing. Without a policy in the
    config, a nano policy is warmed up on the ladder first.
    """
    problems = recipe.stage("check_problems", "problems/tcg", "tcg_problems")
    held_out = recipe.stage("check_problems", "problems/held_out", "held_out")
    policy = recipe.config["policy"] or _warmed_up(recipe)
    wrong = recipe.stage("evaluate", "tcg/policy", policy=policy, problems=held_out)
    measured = {"problems": held_out, "policy": policy, "wrong": wrong}
    start = {"policy": recipe.config["tcg_from"]} if recipe.config["tcg_from"] else {}
    for form, kinds in recipe.config["forms"].items():
        formed = _in_form(recipe, form)
        sft = formed.stage("tcg_sft", f"tcg/{form}/sft", problems=problems, **start)
        formed.stage("evaluate_tcg", f"tcg/{form}/sft_evaluate", tcg=sft, **measured)
        for kind in kinds:
            page = {**formed.config["tcg_dpo"], "rejected": kind}
            arm = dataclasses.replace(formed, config={**formed.config, "tcg_dpo": page})
            tcg = arm.stage("tcg_dpo", f"tcg/{form}/{kind}", tcg=sft, problems=problems)
            arm.stage("evaluate_tcg", f"tcg/{form}/{kind}_evaluate", tcg=tcg, **measured)
    formed.stage("evaluate_selection", "tcg/selection", policy=policy, tcg=tcg, problems=held_out)
    return summary.write(recipe.workdir)


def process_rewards(recipe: Recipe) -> dict[str, Any]:
    """Trains a process reward model on searched trees of a pool, in each of three ways, tests it on those
    of held-out problems, and searches by the soft one's scores. Returns the summary.

    Trees are searched for, unless the config names finished searches; without a policy in the config, a
    nano policy is warmed up on the ladder first.
    """
    policy = recipe.config["policy"] or _warmed_up(recipe)
    held_out = recipe.stage("check_problems", "problems/held_out", "held_out")
    found, tested = recipe.config["pool_trees"], recipe.config["held_out_trees"]
    if not found:
        pool = recipe.stage("check_problems", "problems/pool", "pool")
        found = recipe.stage("search", "pool_trees", policy=policy, problems=pool)
    if not tested:
        tested = recipe.stage("search", "held_out_trees", policy=policy, problems=held_out)
    prm = {}
    for objective in ("soft", "hard", "pair"):
        page = {**recipe.config["prm"], "objective": objective}
        arm = dataclasses.replace(recipe, config={**recipe.config, "prm": page})
        prm[objective] = arm.stage("prm", f"prm/{objective}", policy=policy, found_0=found, held_out=tested)
    recipe.stage("evaluate", "prm/evaluate", policy=policy, problems=held_out, prm=prm["soft"])
    return summary.write(recipe.workdir)


def _in_form(recipe: Recipe, form: str) -> Recipe:
    """The recipe with every page of the generator in one form."""
    config, traced = {**recipe.config}, form == "traced"
    for page in ("tcg_sft", "tcg_dpo"):
        config[page] = {**config[page], "cases": {**config[page]["cases"], "traced": traced}}
    for page in ("evaluate_tcg", "evaluate_selection"):
        config[page] = {**config[page], "write": {**config[page]["write"], "traced": traced}}
    return dataclasses.replace(recipe, config=config)


def _warmed_up(recipe: Recipe) -> str:
    """A nano policy, warmed up on the ladder."""
    references = recipe.stage("check_problems", "warm_up_problems/references", "references")
    validation = recipe.stage("check_problems", "warm_up_problems/validation", "validation")
    return recipe.stage("warm_up", "warm_up", references=references, validation=validation)
