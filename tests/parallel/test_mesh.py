import json
import os
import pathlib
import subprocess
import sys

import jax
import numpy as np
import pytest
from flax import nnx
from jax.sharding import NamedSharding, PartitionSpec

from o1jax.parallel.mesh import MESH_AXES, batch_spec, make_mesh, param_shardings, place_batch, spec_of
from o1jax.records import InputError

REPOSITORY = pathlib.Path(__file__).parents[2]


@pytest.fixture(scope="module")
def results(tmp_path_factory) -> dict:
    """What eight_devices.py prints: one device and two meshes of eight."""
    program = REPOSITORY / "tests/parallel/eight_devices.py"
    env = os.environ | {"PYTHONPATH": str(REPOSITORY), "JAX_PLATFORMS": "cpu"}
    env |= {"XLA_FLAGS": "--xla_backend_optimization_level=1"}  # half the time to compile
    command = [sys.executable, str(program), str(tmp_path_factory.mktemp("checkpoint"))]
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize("mesh", ["2x2x2", "8"])
def test_loss_and_gradients_on_a_mesh_equal_one_device_s(results, mesh):
    np.testing.assert_allclose(results[mesh]["loss"], results["one"]["loss"], rtol=2e-6)
    np.testing.assert_allclose(results[mesh]["gradient_norms"], results["one"]["gradient_norms"], rtol=1e-4)


def test_no_matrix_is_whole_on_one_device(results):
    assert results["2x2x2"]["share"] == results["2x2x2"]["gradient_share"] == 1 / 4  # fsdp x tensor
    assert results["8"]["share"] == 1 / 8


@pytest.mark.parametrize("mesh", ["one", "2x2x2", "8"])
def test_a_checkpoint_loads_into_the_shards_of_any_mesh(results, mesh):
    assert results[mesh]["loads"]


def test_the_default_mesh_has_all_axes_and_all_devices_on_data():
    mesh = make_mesh()
    assert mesh.axis_names == MESH_AXES
    assert mesh.shape["data"] == len(jax.devices()) and mesh.shape["tensor"] == 1


def test_a_mesh_that_does_not_fit_is_refused():
    with pytest.raises(InputError, match="needs 6 devices, there are 1"):
        make_mesh({"data": 3, "tensor": 2}, jax.devices()[:1])
    with pytest.raises(InputError, match="modle"):
        make_mesh({"modle": 1})


def test_the_rules_turn_logical_axes_into_mesh_axes():
    assert spec_of(("layers", "embed", "heads", "head_dim")) == PartitionSpec(None, "fsdp", "tensor", None)
    assert spec_of((None, "vocab")) == PartitionSpec(None, "tensor")
    assert batch_spec() == PartitionSpec(("data", "fsdp"), "context")
    with pytest.raises(KeyError, match="hedas"):
        spec_of(("hedas",))


def test_params_have_the_sharding_of_their_axes():
    mesh = make_mesh(devices=jax.devices()[:1])
    params = nnx.State({"w": nnx.Param(np.ones((2, 3, 4), np.float32), axes=("embed", "ff"))})
    sharding = param_shardings(params, mesh)["w"].get_value()  # one axis more than its names: stacked layers
    assert sharding == NamedSharding(mesh, PartitionSpec(None, "fsdp", "tensor"))


def test_a_batch_is_placed_whole_and_keeps_its_values():
    rows = np.arange(12, dtype=np.int32).reshape(4, 3)
    placed = place_batch({"tokens_BT": rows}, make_mesh(devices=jax.devices()[:1]))
    np.testing.assert_array_equal(placed["tokens_BT"], rows)
    assert placed["tokens_BT"].dtype == np.int32
