import math

import jax.numpy as jnp
import numpy as np
import pytest

from o1jax.model.config import ModelConfig
from o1jax.model.presets import preset
from o1jax.model.rope import RopeScaling, frequencies, rotation
from o1jax.records import InputError
from tests.model.tiny_models import SCALINGS


def test_plain_frequencies_are_powers_of_the_base():
    np.testing.assert_allclose(frequencies(1e4, 8, RopeScaling()), [1.0, 0.1, 0.01, 0.001])


def test_linear_divides_all():
    np.testing.assert_allclose(frequencies(1e4, 8, SCALINGS["linear"]), [0.25, 0.025, 0.0025, 0.00025])


def test_llama3_keeps_the_fast_stretches_the_slow_and_mixes_between():
    got_R = frequencies(10.0, 8, SCALINGS["llama3"])
    plain_R = np.array([1.0, 10**-0.25, 10**-0.5, 10**-0.75])
    turns_R = 32 * plain_R / (2 * math.pi)
    kept = (turns_R[1] - 1) / 3
    assert turns_R[0] > 4 > turns_R[1] > 1 > turns_R[3]
    np.testing.assert_allclose(got_R[[0, 3]], [1.0, plain_R[3] / 8])
    np.testing.assert_allclose(got_R[1], plain_R[1] * (kept + (1 - kept) / 8))


def test_yarn_mixes_by_index_and_scales_cos_and_sin():
    scaling = SCALINGS["yarn"]
    plain_R = 10.0 ** -np.array([0, 0.25, 0.5, 0.75])
    kept_R = 1 - np.array([0, 1, 2, 3]) / 3  # from index floor(.42) to ceil(2.83)
    np.testing.assert_allclose(frequencies(10.0, 8, scaling), plain_R * (kept_R + (1 - kept_R) / 4))
    angles = rotation(10.0, 8, scaling, jnp.zeros((1, 1), int))
    np.testing.assert_allclose(angles.cos_BTR, np.full((1, 1, 4), 0.1 * math.log(4) + 1), rtol=1e-6)


def test_published_llama_frequencies_span_their_stretch():
    got_R = frequencies(5e5, 64, preset("llama-3.2-1b").rope_scaling)
    plain_R = frequencies(5e5, 64, RopeScaling())
    assert got_R[0] == plain_R[0] and got_R[-1] == plain_R[-1] / 32
    assert (np.diff(got_R) < 0).all()


@pytest.mark.parametrize("name", ["nano", "llama-3.1-8b", "deepseek-coder-1.3b"])
def test_scaling_goes_to_json_and_back(name):
    assert ModelConfig.from_json(preset(name).to_json()) == preset(name)


def test_a_config_from_before_there_was_scaling_reads_as_plain():
    text = preset("nano").to_json().replace('"rope_scaling"', '"old"')
    start = text.index('"old"')
    text = text[:start] + text[text.index("}", start) + 3 :]
    assert ModelConfig.from_json(text) == preset("nano")


@pytest.mark.parametrize(
    "fields, words",
    [
        ({"type": "dynamic"}, "'dynamic' is not supported"),
        ({"type": "linear", "factor": 0.5}, "factor 0.5"),
        ({"type": "yarn", "factor": 4.0}, "trained on"),
    ],
)
def test_a_scaling_that_cannot_be_is_refused(fields, words):
    with pytest.raises(InputError, match=words):
        RopeScaling(**fields)
