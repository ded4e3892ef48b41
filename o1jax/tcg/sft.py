"""Step 1, first half: SFT of a test-case generator on true cases (O1-CODER, section 3.1).

Inputs: problems (check_problems, whose tests are learned from), policy (what it starts from; a TCG is a
policy directory like any). Without a policy a nano model starts from nothing, which the paper does not do.
What is learned is drawn in cases.py; DPO follows in dpo.py.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

from etils import epath
from pydantic import PositiveInt

from o1jax.batches.encode import encode_sft, keep_short
from o1jax.model.init import init_params
from o1jax.model.presets import preset
from o1jax.parallel.mesh import make_mesh
from o1jax.parallel.seeds import fold_seed
from o1jax.prompts import nano_tokenizer
from o1jax.records import InputError
from o1jax.search.samples import whole_sample
from o1jax.stages import provenance, training
from o1jax.stages.manifest import StageResult
from o1jax.stages.problems import read_problems
from o1jax.tcg import cases as tcg_cases
from o1jax.tcg.cases import CaseSet, CaseSettings
from o1jax.train import objectives
from o1jax.train.checkpoint import Policy


@dataclasses.dataclass(frozen=True)
class Settings:
    """The generator's sets of true cases, and how it is trained on them."""

    train_tokens: PositiveInt  # tokens to train on, padding not counted
    preset: str = "nano"  # the shape of a model from nothing, where no policy is given
    vocab_size: PositiveInt = 512  # of its tokenizer
    cases: CaseSettings = CaseSettings()
    train: training.TrainSettings = training.TrainSettings()


def run(out: epath.Path, settings: Settings, inputs: Mapping[str, epath.Path], seed: int) -> StageResult:
    """figures: problems, sets, dropped (reasons), dropped_long, steps, trained_tokens."""
    made = tcg_cases.kept_sets(out, read_problems(inputs["problems"]), settings.cases, seed)
    if not made.sets:
        raise InputError(
            f"{inputs['problems']}: no problem has a reference program and three tests to learn from; "
            f"lost: {made.dropped}"
        )
    policy = (
        training.open_policy(inputs["policy"])
        if "policy" in inputs
        else _from_nothing(made.sets, settings, seed)
    )
    training.check_model("tcg_sft", settings.train.model, policy)
    policy = training.as_trained(policy, settings.train, seed)
    rows, encoded, tokenizer = [], [], policy.tokenizer
    for case_set in made.sets:
        asked = tcg_cases.prompt_ids(case_set, tokenizer, settings.cases)
        answer = tcg_cases.answer_ids(case_set.cases, case_set.problem, tokenizer, settings.cases)
        sample = whole_sample(case_set.id, case_set.problem.id, asked, answer)
        encoded.append(encode_sft(sample))
        source = provenance.text_source("problems", "cases of its tests", answer, tokenizer)
        facts = {"program": case_set.source, "program_shown": case_set.shown}
        rows.append(
            provenance.row(sample, "true cases", [source], encoded[-1], settings.train.row_length, facts)
        )
    provenance.write(out, rows)
    examples, long = keep_short(encoded, settings.train.row_length)
    if not examples:
        raise InputError(
            f"tcg_sft.train.row_length: saw {settings.train.row_length} tokens, and all {long} samples are "
            "longer; raise it"
        )
    fitted = training.train_tokens(out, "tcg_sft", policy, objectives.sft, examples, settings, seed)
    figures = {"problems": made.problems, "sets": len(made.sets), "dropped": made.dropped}
    return training.result(fitted, figures, long)


def _from_nothing(sets: Sequence[CaseSet], settings: Settings, seed: int) -> Policy:
    texts = tcg_cases.texts(sets, settings.cases)
    # A tokenizer of its own, that spells values: a model of this size computes with digits and letters only
    # where each is a token, and the policy's tokenizer merges them into words.
    tokenizer = nano_tokenizer.train(texts, settings.vocab_size, spelled=True)
    config = dataclasses.replace(preset(settings.preset), vocab_size=len(tokenizer))
    graphdef, params = init_params(config, fold_seed(seed, "init"), make_mesh())
    return Policy(config, graphdef, params, tokenizer)
