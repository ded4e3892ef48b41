"""Training by LoRA as stages do it: what is trained, saved, resumed and kept once."""

import dataclasses
import gc
import json
import math

import jax
import numpy as np
import pytest
from etils import epath
from flax import nnx

from o1jax.batches.encode import encode_sft
from o1jax.batches.stream import Batches
from o1jax.model.init import init_params, merge
from o1jax.model.lora import LoraSettings
from o1jax.model.presets import preset
from o1jax.parallel.mesh import make_mesh
from o1jax.prompts import nano_tokenizer
from o1jax.records import InputError, PreferencePair, SftSample
from o1jax.stages import training
from o1jax.stages.training import as_trained, without_adapters
from o1jax.train import objectives
from o1jax.train.checkpoint import Checkpoints, Policy, load_policy
from o1jax.train.loop import FitSettings, fit
from o1jax.train.optimizer import OptimizerSettings

LORA = LoraSettings(rank=4, alpha=8.0)
TOKENIZER = nano_tokenizer.train(["print(sum(xs))", "def add(a, b):\n    return a + b"], 300)


TRAIN = training.TrainSettings(
    row_length=32,
    rows_per_batch=2,
    micro_batches=2,
    learning_rate=2e-2,
    schedule="constant",
    warmup_steps=0,
    weight_decay=0.0,
    lora=LORA,
)
WHOLE = dataclasses.replace(TRAIN, lora=LoraSettings())


@dataclasses.dataclass(frozen=True)
class Budget:
    train_tokens: int = 800
    train: training.TrainSettings = TRAIN
    beta: float = 0.1
    nll_weight: float = 0.0


def base():
    config = dataclasses.replace(
        preset("nano"), vocab_size=len(TOKENIZER), d_model=64, n_layers=2, n_heads=2, n_kv_heads=1, d_ff=128
    )
    graphdef, params = init_params(config, 0, make_mesh())
    return Policy(config, graphdef, jax.tree.map(lambda leaf: 4 * leaf, params), TOKENIZER)


def ids(seed, length=9):
    return tuple(np.random.default_rng(seed).integers(5, len(TOKENIZER), length).tolist())


def samples():
    return [encode_sft(SftSample(str(i), str(i), ids(i), ids(i + 9), (True,) * 9)) for i in range(4)]


def losses(out):
    return [json.loads(line)["loss"] for line in (out / "fit/metrics.jsonl").read_text().splitlines()]


def test_sft_lowers_the_loss_saves_adapters_alone_and_leaves_a_plain_policy(tmp_path):
    out, before = epath.Path(tmp_path), dict(nnx.to_flat_state(base().params))
    adapted = as_trained(base(), TRAIN, 0)
    fitted = training.train_tokens(out, "sft", adapted, objectives.sft, samples(), Budget(), 0)
    assert losses(out)[-1] < 0.8 * losses(out)[0]
    policy = load_policy(out / "policy", make_mesh())
    assert policy.config == base().config and not policy.frozen
    for path, variable in nnx.to_flat_state(policy.params):
        is_kernel = path[-1] in ("q_DNH", "k_DKH", "v_DKH", "o_NHD", "gate_DF", "up_DF", "down_FD")
        assert (variable.get_value() == before[path].get_value()).all() != is_kernel, path
    for x, y in zip(jax.tree.leaves(fitted.params), jax.tree.leaves(policy.params), strict=True):
        assert (x == y).all()
    with Checkpoints(out / "fit/checkpoints") as checkpoints:
        like = jax.tree.map(
            lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), adapted.params
        )
        checkpoints.restore(checkpoints.latest, {"params": like})  # of other shapes, it would refuse
    assert {path.name for path in (out / "adapters").iterdir()} == {
        "adapter_model.safetensors",
        "adapter_config.json",
    }


@pytest.mark.parametrize("base_kind", ["as_is", "nf4"])
def test_dpo_begins_at_ln_2_with_one_copy_of_the_parameters(base_kind, tmp_path, monkeypatch):
    gc.collect()
    others = sum(array.nbytes for array in jax.live_arrays())
    parameters = sum(leaf.nbytes for leaf in jax.tree.leaves(base().params))
    lora, seen = dataclasses.replace(LORA, base=base_kind), []

    def watched(*args, **options):
        gc.collect()
        seen.append(sum(array.nbytes for array in jax.live_arrays()) - others)
        return fit(*args, **options)

    monkeypatch.setattr(training, "fit", watched)
    pairs = [PreferencePair(str(i), str(i), ids(i, 4), ids(i + 9, 8), ids(i + 20, 8)) for i in range(2)]
    budget = Budget(train_tokens=1, train=dataclasses.replace(TRAIN, row_length=64, lora=lora))
    out = epath.Path(tmp_path)
    training.train_preferences(out, "dpo", as_trained(base(), budget.train, 0), pairs, budget, 0)
    assert losses(out)[0] == pytest.approx(math.log(2), abs=1e-6)
    assert seen[0] < 1.3 * parameters  # and the adapters


def test_a_run_that_was_cut_short_goes_on_to_the_same_adapters(tmp_path):
    batches = Batches(samples(), row_length=32, rows_per_batch=2, seed=0)
    optimizer = OptimizerSettings(learning_rate=1e-2, total_steps=4, weight_decay=0.1)

    def run(name, steps):
        policy = as_trained(base(), TRAIN, 0)
        return fit(
            epath.Path(tmp_path / name),
            policy.graphdef,
            policy.params,
            objectives.sft,
            batches,
            optimizer,
            FitSettings(steps, micro_batches=2),
            mesh=make_mesh(),
            frozen=policy.frozen,
        )

    run("cut", 2)
    for x, y in zip(
        jax.tree.leaves(run("cut", 4).params), jax.tree.leaves(run("whole", 4).params), strict=True
    ):
        assert (x == y).all()


def test_without_a_rank_nothing_is_added_and_nothing_is_merged():
    policy = base()
    assert as_trained(policy, WHOLE, 0) is policy
    assert without_adapters(policy, LoraSettings()) is policy


@pytest.mark.parametrize("lora", [LoraSettings(), LORA])
def test_what_the_settings_say_of_the_program_is_that_of_training_alone(tmp_path, lora):
    train = dataclasses.replace(TRAIN, lora=lora, remat="full", unroll=2, attention="chunked")
    policy = as_trained(base(), train, 0)
    program = merge(policy.graphdef, policy.params, policy.frozen).config
    assert (program.remat, program.unroll, program.attention) == ("full", 2, "chunked")
    out = epath.Path(tmp_path)
    training.train_tokens(
        out, "sft", policy, objectives.sft, samples(), Budget(train_tokens=1, train=train), 0
    )
    assert load_policy(out / "policy", make_mesh()).config == base().config


@pytest.mark.parametrize("kernel, words", [("flash", "is unknown"), ("splash", "cannot run on cpu")])
def test_a_kernel_that_is_not_here_is_refused(kernel, words):
    with pytest.raises(InputError, match=words):
        as_trained(base(), dataclasses.replace(TRAIN, attention=kernel), 0)
