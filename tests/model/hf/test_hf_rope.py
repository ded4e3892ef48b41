import pytest

from o1jax.model.hf.config import rope_from_hf, rope_to_hf
from o1jax.model.rope import RopeScaling
from o1jax.records import InputError
from tests.model.tiny_models import SCALINGS

CONTEXT = {"max_position_embeddings": 128}


@pytest.mark.parametrize("spelling", ["rope_scaling", "rope_parameters"])
@pytest.mark.parametrize("scaling", [RopeScaling(), *SCALINGS.values()])
def test_either_spelling_alone_reads_back_what_was_written(scaling, spelling):
    fields = rope_to_hf(1e6, scaling) | CONTEXT
    del fields["rope_parameters" if spelling == "rope_scaling" else "rope_scaling"]
    if spelling == "rope_parameters":
        del fields["rope_theta"]
    assert rope_from_hf(fields) == (1e6, scaling)


@pytest.mark.parametrize(
    "fields, theta, scaling",
    [
        ({}, 1e4, RopeScaling()),
        ({"rope_theta": 1e6, "rope_scaling": None}, 1e6, RopeScaling()),
        (
            {"rope_theta": 100_000, "rope_scaling": {"type": "linear", "factor": 4.0}},  # deepseek-coder
            1e5,
            RopeScaling("linear", 4.0),
        ),
        (
            {"rope_scaling": {"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32}},
            1e4,
            RopeScaling("yarn", 4.0, 32, attention_factor=1.1386294361119891),
        ),
        (  # as transformers 5 writes it; mscale's ratio in place of the paper's
            {
                "rope_parameters": {
                    "rope_type": "yarn",
                    "rope_theta": 5e5,
                    "factor": None,
                    "original_max_position_embeddings": 32,
                    "mscale": 1.0,
                    "mscale_all_dim": 1.0,
                }
            },
            5e5,
            RopeScaling("yarn", 4.0, 32, attention_factor=1.0),
        ),
    ],
)
def test_published_forms_are_read(fields, theta, scaling):
    assert rope_from_hf(fields | CONTEXT) == (theta, scaling)


@pytest.mark.parametrize(
    "fields, words",
    [
        ({"rope_scaling": {"type": "dynamic", "factor": 2.0}}, "'dynamic' is not supported"),
        ({"rope_scaling": {"rope_type": "longrope", "short_factor": [1.0]}}, "'longrope'"),
        ({"rope_scaling": {"type": "mrope", "mrope_section": [16]}}, "'mrope'"),
        ({"rope_scaling": {"type": "linear"}}, "no factor"),
        ({"rope_scaling": {"type": "linear", "factor": 2.0, "mscale": 1.0}}, "with mscale"),
        ({"rope_parameters": {"full_attention": {"rope_type": "default"}}}, "with full_attention"),
        ({"partial_rotary_factor": 0.5}, "rotates 0.5"),
    ],
)
def test_what_is_not_supported_is_named(fields, words):
    with pytest.raises(InputError, match=words):
        rope_from_hf(fields | CONTEXT)
