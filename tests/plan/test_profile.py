"""A profile measures the real step, and leaves a trace that TensorBoard and xprof open."""

import tiny_run
from etils import epath

from o1jax.batches.encode import Example
from o1jax.batches.stream import Batches
from o1jax.parallel.mesh import make_mesh
from o1jax.plan.profile import pairs_of, profile, random_batches


def test_a_profile_has_its_figures_and_a_trace_and_leaves_no_checkpoint(tmp_path):
    figures = profile(
        tiny_run.CONFIG,
        make_mesh(),
        tiny_run.OPTIMIZER,
        epath.Path(tmp_path / "checkpoint"),
        rows=2,
        row_length=64,
        steps=3,
        trace=epath.Path(tmp_path / "trace"),
    )
    step_s = figures["step_s"]
    assert 0 < step_s["min"] <= step_s["p50"] <= step_s["p90"] <= step_s["max"]
    assert figures["tokens_per_s"] > 0 and figures["compile_s"] > 0 and figures["input_stall_s"] >= 0
    assert 0 <= figures["checkpoint_stall_s"] <= figures["checkpoint_s"]
    assert figures["mfu"] is None  # a CPU's peak is not known
    assert not (tmp_path / "checkpoint").exists()
    assert list(tmp_path.glob("trace/plugins/profile/*/*.xplane.pb"))


def test_attention_is_counted_inside_sequences_only():
    batches = random_batches(64, rows=2, row_length=64)
    lengths = [len(batches._tokens[i]) for row in batches.rows(0) for i in row]
    assert pairs_of(batches, 0) == sum(n * n for n in lengths) / 2


def test_without_padding_no_sequence_is_left_out():
    full = [Example(str(i), (1,) * 8, (1.0,) * 8) for i in range(4)]
    assert pairs_of(Batches(full, row_length=8, rows_per_batch=4, seed=0), 0) == 4 * 8 * 8 / 2
