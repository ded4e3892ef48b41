import logging

import pytest

from o1jax.model.attention import choose
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
    ]:
        with pytest.raises(InputError, match=f"attention '{setting}' cannot run on {device[1]} in {dtype}"):
            choose(setting, *device, dtype, 128)
    with pytest.raises(InputError, match="'flash' is unknown: use auto, chunked, splash, cudnn"):
        choose("flash", *CPU, "float32", 128)


def test_the_choice_is_logged(caplog):
    choose.cache_clear()
    with caplog.at_level(logging.INFO):
        choose("auto", *CPU, "float32", 128)
    assert "attention: chunked on cpu (setting auto)" in caplog.text
