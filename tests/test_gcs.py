"""gs:// by the real clients, gcsfs and TensorStore, against a server that speaks their protocol."""

import threading

import gcs_server
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny_run
from etils import epath

from o1jax import buckets
from o1jax.buckets import create_if_absent
from o1jax.parallel.mesh import make_mesh
from o1jax.prompts import nano_tokenizer
from o1jax.train.checkpoint import Checkpoints, load_policy, save_policy
from o1jax.train.metrics import MetricsLog
from o1jax.writing import write_whole

pytest.importorskip("gcsfs", reason="the package that opens gs://")
pytestmark = pytest.mark.hostile  # clients wait for seconds where a request is refused


@pytest.fixture(scope="module")
def server():
    server = gcs_server.Server()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT", "false")  # it would ask Google what the bucket is
        patch.setenv("STORAGE_EMULATOR_HOST", server.url)
        patch.setenv("TENSORSTORE_GCS_HTTP_URL", server.url)
        patch.setenv("GOOGLE_AUTH_TOKEN_FOR_TESTING", "token")
        yield server
    server.shutdown()


def test_files_are_written_found_and_removed_and_one_process_is_first(server):
    root = epath.Path("gs://bucket/files")
    for number in range(30):
        write_whole(root / "a" / f"{number}.txt", f"é{number}")
    assert sorted(path.name for path in (root / "a").iterdir()) == sorted(f"{k}.txt" for k in range(30))
    assert (root / "a/3.txt").read_text(encoding="utf-8") == "é3" and not (root / "a/99.txt").exists()
    created = []
    threads = [
        threading.Thread(target=lambda k=k: create_if_absent(root / "lease", b"%d" % k) and created.append(k))
        for k in range(6)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(created) == 1 and (root / "lease").read_bytes() == b"%d" % created[0]
    (root / "a").rmtree()
    assert not (root / "a").exists() and (root / "lease").exists() and server.busy


def test_checkpoints_are_orbax_s_own_and_one_left_half_written_is_made_again(server):
    def arrays(step):
        return {"state": {"a": jnp.full((300, 400), step, jnp.float32)}}

    like = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), arrays(0))
    place = epath.Path("gs://bucket/checkpoints")
    with Checkpoints(place) as checkpoints:
        for step in range(1, 5):
            checkpoints.save(step, arrays(step), {"step": step}, keep=(1,))
    with Checkpoints(place) as checkpoints:
        assert checkpoints.steps() == [1, 3, 4] and checkpoints.meta(4) == {"step": 4}
        assert np.array_equal(checkpoints.restore(4, like)["state"]["a"], arrays(4)["state"]["a"])
    (place / "4/commit_success.txt").unlink()
    with Checkpoints(place) as checkpoints:
        assert checkpoints.steps() == [1, 3]
        checkpoints.save(4, arrays(4), {})
        checkpoints.wait()
        assert checkpoints.steps() == [1, 3, 4]


def test_a_policy_and_a_log_are_kept(server):
    place = epath.Path("gs://bucket/stage")
    tokenizer = nano_tokenizer.train(["print(input())\n", "def f(x):\n    return x\n"] * 4, 300)
    for _ in range(2):
        save_policy(place / "policy", tiny_run.CONFIG, tiny_run.model()[1], tokenizer)
    policy = load_policy(place / "policy", make_mesh())
    assert all(jax.tree.leaves(jax.tree.map(np.array_equal, policy.params, tiny_run.model()[1])))
    assert policy.tokenizer.get_vocab() == tokenizer.get_vocab()
    with MetricsLog(place, 0) as log:
        log.write(1, {"loss": 1.0})
    assert (place / "metrics.jsonl").read_text(encoding="utf-8") == '{"step": 1, "loss": 1.0}\n'
    assert buckets.absolute(place) == place and server.busy
