"""Copies of a model's parameters for engines, on eight virtual devices."""

import json
import pathlib
import subprocess
import sys

import pytest

PROGRAM = pathlib.Path(__file__).with_name("copies_on_eight_devices.py")


@pytest.fixture(scope="module")
def seen():
    done = subprocess.run([sys.executable, str(PROGRAM)], capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


def test_every_copy_has_the_bits_and_the_devices_it_should(seen):
    assert all(case["equal"] and case["as_wanted"] for case in seen.values())


def test_no_more_than_a_layer_of_a_parameter_is_whole_beside_the_copies(seen):
    for case in seen.values():
        layer = case["largest_stack"] / 8
        assert case["peak"] <= case["params"] + case["copies"] + 8 * layer
        assert case["layer_program"] <= 4 * layer  # the all-gather's temporaries among it


def test_owned_parameters_are_gone_and_others_stay(seen):
    assert all(seen["owned"]["owned"]) and not any(seen["split"]["owned"])
    # Each is deleted once it is copied: there are never both sets.
    assert seen["owned"]["peak"] <= seen["owned"]["copies"] + seen["owned"]["largest_stack"] * 2
    assert seen["split"]["peak"] >= seen["split"]["copies"] + seen["split"]["params"] * 0.9
