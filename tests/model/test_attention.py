import logging

import jax
import jax.numpy as jnp
import pytest
from jax._src.cudnn import fused_attention_stablehlo as cudnn

from o1jax.model import attention
from o1jax.model.attention import PACKED_SINCE, choose, cudnn_packed_attention, segment_places
from o1jax.records import InputError

TPU, GPU, CPU = ("tpu", "TPU v5"), ("gpu", "NVIDIA H100 80GB HBM3"), ("cpu", "cpu")


def test_auto_chooses_by_platform_and_by_what_the_kernel_takes():
    assert choose("auto", *TPU, "bfloat16", 128) == "splash"
    assert choose("auto", *GPU, "bfloat16", 128) == "cudnn"
    assert choose("auto", *GPU, "float32", 128) == choose("auto", *GPU, "bfloat16", 36) == "chunked"
    assert choose("auto", "gpu", "AMD Instinct MI300X", "bfloat16", 128) == "chunked"
    assert choose("auto", *CPU, "bfloat16", 128) == "chunked"


def test_what_was_asked_for_is_given_or_refused_and_never_replaced():
    assert choose("chunked", *TPU, "bfloat16", 128) == "chunked"
    for setting, device, dtype in [
        ("splash", CPU, "float32"),
        ("splash", GPU, "bfloat16"),
        ("cudnn", TPU, "bfloat16"),
        ("cudnn", GPU, "float32"),
        ("cudnn_packed", CPU, "bfloat16"),
        ("cudnn_packed", GPU, "float32"),
    ]:
        with pytest.raises(InputError, match=f"attention '{setting}' cannot run on {device[1]} in {dtype}"):
            choose(setting, *device, dtype, 128)
    with pytest.raises(
        InputError, match="'flash' is unknown: use auto, chunked, splash, cudnn, cudnn_packed"
    ):
        choose("flash", *CPU, "float32", 128)


def test_the_choice_is_logged(caplog):
    choose.cache_clear()
    with caplog.at_level(logging.INFO):
        choose("auto", *CPU, "float32", 128)
    assert "attention: chunked on cpu (setting auto)" in caplog.text


@pytest.mark.parametrize("version, runs", [((0, 10, 2), False), ((0, 11, 1), False), ((0, 11, 2), True)])
def test_packed_attention_is_refused_where_jax_computes_it_wrongly(monkeypatch, version, runs):
    monkeypatch.setattr(attention.jax, "__version_info__", version)
    choose.cache_clear()
    if runs:
        assert choose("cudnn_packed", *GPU, "bfloat16", 128) == "cudnn_packed"
        return
    with pytest.raises(InputError, match=r"needs jax 0\.11\.2.*jax#39521.*set attention to cudnn"):
        choose("cudnn_packed", *GPU, "bfloat16", 128)


def test_packed_attention_takes_whole_rows():
    x_BTNH = jnp.zeros((1, 8, 1, 8))
    segments_BT = jnp.ones((1, 8), jnp.int32)
    with pytest.raises(InputError, match="make the context axis 1, or use cudnn"):
        cudnn_packed_attention(x_BTNH[:, :4], x_BTNH, x_BTNH, segments_BT[:, :4], segments_BT, first=0)


SEGMENTS_BT = jnp.array(
    [[1, 1, 2, 3, 3, 3, 0, 0], [2, 2, 2, 2, 7, 7, 7, 7], [0] * 8, [1, 1, 2, 2, 2, 0, 0, 0]]
)


def test_segments_are_found_by_where_they_lie():
    starts_BX, lengths_BM, whole_B = segment_places(SEGMENTS_BT[:3], 4)
    assert starts_BX.tolist() == [[0, 2, 3, -1, -1], [0, 4, -1, -1, -1], [-1] * 5]
    assert lengths_BM.tolist() == [[2, 1, 3, -1], [4, 4, -1, -1], [-1] * 4]
    assert whole_B.tolist() == [True] * 3
    starts_BX, lengths_BM, whole_B = segment_places(SEGMENTS_BT[:3], 2)  # too few places for the first row
    assert starts_BX.tolist() == [[0, 2, -1], [0, 4, -1], [-1] * 3] and lengths_BM.tolist()[0] == [2, 1]
    assert whole_B.tolist() == [False, True, True]


def test_cudnn_is_told_every_row_s_segments_where_they_lie_among_all_rows():
    N, K, H = 4, 2, 8
    starts_BX, lengths_BM, _ = segment_places(SEGMENTS_BT, 4)
    q, k = (jnp.zeros((4, 8, heads, H)) for heads in (N, K))
    told = cudnn._fix_seqlen_offsets(lengths_BM, lengths_BM, starts_BX, starts_BX, q, k)
    lengths, _, starts, key_starts = (x.flatten()[:7].tolist() for x in told)
    wanted = [(0, 2), (2, 1), (3, 3), (8, 4), (12, 4), (24, 2), (26, 3)]  # (first of 32 places, how many)
    assert [(start // (N * H), n) for start, n in zip(starts, lengths, strict=True)] == wanted
    if jax.__version_info__ >= PACKED_SINCE:
        assert [start // (K * H) for start in key_starts] == [start for start, _ in wanted]
