import dataclasses
import importlib.util

import pytest

from o1jax.model.presets import preset
from o1jax.parallel.chips import CHIPS, chip_of_kind
from o1jax.parallel.mesh import sizes_of
from o1jax.plan.bounds import (
    forward_flops,
    product_parameters,
    train_bounds,
    train_flops,
)
from o1jax.plan.collectives import Traffic
from o1jax.plan.planning import within_memory
from o1jax.plan.program import GIB, Compiled, gib, refused
from o1jax.plan.topology import devices_of, slower_network
from o1jax.records import InputError

NANO = preset("nano")


def test_flops_by_hand():
    parameters = 4 * (128 * 32 * (2 * 4 + 2 * 2) + 3 * 128 * 384) + 128 * 1024
    assert product_parameters(NANO) == parameters
    attention = 4 * 4 * 4 * 32 * 50  # scores and values, 4 layers, 4 heads of 32, 50 pairs
    assert forward_flops(NANO, 10, 50) == 2 * parameters * 10 + attention
    assert train_flops(NANO, 10, 50) == 6 * parameters * 10 + 3 * attention
    assert train_flops(NANO, 10, 50, lora=True) == 4 * parameters * 10 + 3 * attention


def test_the_slowest_of_compute_memory_and_network_bounds_a_step():
    chip = CHIPS["v5p"]
    found = Compiled(True, 2.0, 0.0, 1.0, 1.0, 1.0, {"all-gather": Traffic(1, 300e9)})
    bound = train_bounds(NANO, chip, 8, found, rows=8, row_length=64)
    assert bound.network_s == bound.step_s == pytest.approx(1.0)
    assert bound.memory_s == pytest.approx(2 * GIB / 2765e9)
    assert bound.compute_s == pytest.approx(train_flops(NANO, 512, 8 * 64**2 / 2) / 8 / 459e12)
    assert bound.mfu(chip, 8) == pytest.approx(bound.model_flops / (8 * 459e12))
    full = train_bounds(dataclasses.replace(NANO, remat="full"), chip, 8, found, rows=8, row_length=64)
    assert full.compute_s == pytest.approx(bound.compute_s * 4 / 3)
    kept = train_bounds(dataclasses.replace(NANO, remat="attention"), chip, 8, found, rows=8, row_length=64)
    again = forward_flops(NANO, 8 * 64, 0) / 8 / 459e12  # the products, and not attention
    assert kept.compute_s == pytest.approx(bound.compute_s + again)


def test_too_little_memory_is_read_from_the_compilers_message():
    message = "RESOURCE_EXHAUSTED: XLA:TPU compile permanent error. Ran out of memory in memory space hbm. "
    found = refused(message + "Used 20.50G of 15.75G hbm. Exceeded hbm capacity by 4.75G.\n\nTotal", 3.0)
    assert not found.fits and (found.peak_gib, found.limit_gib) == (20.5, 15.75)
    assert found.needs.endswith("Used 20.50G of 15.75G hbm. Exceeded hbm capacity by 4.75G.")
    message = "RESOURCE_EXHAUSTED: Ran out of memory on HBM, the total memory required for HLO temporaries "
    found = refused(message + "(25.55G) exceeds available HBM (15.75G).", 3.0)
    assert (found.peak_gib, found.limit_gib) == (25.55, 15.75)
    assert gib("512.00M") == 0.5
    with pytest.raises(RuntimeError, match="INTERNAL: something else"):
        refused("INTERNAL: something else", 1.0)


def test_devices_are_known_by_kind():
    assert chip_of_kind("NVIDIA H100 80GB HBM3") == CHIPS["h100"]
    assert chip_of_kind("TPU v5 lite") == CHIPS["v5e"] and chip_of_kind("cpu") is None


@pytest.mark.parametrize("name", ["v9:2x2", "v5p", "v5p:2x", "2x2x2"])
def test_an_unknown_topology_is_refused(name):
    with pytest.raises(InputError, match="wanted <chip>:<shape>"):
        devices_of(name)


@pytest.mark.skipif(importlib.util.find_spec("jax_cuda13_plugin") is not None, reason="the plugin is here")
def test_nvidia_says_what_is_missing():
    with pytest.raises(InputError, match="jax-cuda13-pjrt and jax-cuda13-plugin"):
        devices_of("h100:8")


def test_gpus_come_in_hosts_not_slices():
    with pytest.raises(InputError, match="write its hosts, as h100:2x8"):
        devices_of("h100:8", slices=2)
    with pytest.raises(InputError, match="wanted h100:<GPUs> or"):
        devices_of("h100:2x2x2")


def test_what_takes_more_than_the_chip_has_does_not_fit():
    found = Compiled(True, 80.0, 0.0, 30.0, 50.0, 1.0, {})
    assert within_memory(found, CHIPS["h200"]) == found
    refused = within_memory(found, CHIPS["h100"])
    assert not refused.fits and refused.limit_gib == 79.6 and "80.0 GiB of the chip's 79.6" in refused.needs


def test_a_plan_says_where_a_slower_network_is_not_in_its_bound():
    assert slower_network("v5p:2x2x2") == slower_network("h100:8") == "all traffic"
    assert "between the 2 slices is not counted" in slower_network("v5e:2x2", slices=2)
    assert slower_network("h100:2x8").startswith("2 hosts as if NVLink joined them")


def test_a_mesh_in_words():
    assert sizes_of(["fsdp=*", "tensor=2"], 8) == {"fsdp": 4, "tensor": 2}
    assert sizes_of(["data=8"], 8) == {"data": 8}
    for words in (["fsdp"], ["fsdp=*", "data=*"], ["fsdp=x"], ["tensor=0"]):
        with pytest.raises(InputError, match="wanted <axis>=<size>"):
            sizes_of(words, 8)
    with pytest.raises(InputError, match="does not divide 8 devices"):
        sizes_of(["fsdp=*", "tensor=3"], 8)
