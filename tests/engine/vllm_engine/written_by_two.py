"""`python written_by_two.py ROOT...`: one of two processes of two devices each, which hold a model together.
Writes it for servers below ROOT (its own, of as many as processes) twice, and prints where as JSON."""

import json
import sys

import jax
from etils import epath

from o1jax.engine.vllm_engine.weights import written
from o1jax.model.config import ModelConfig
from o1jax.model.init import init_params
from o1jax.parallel.mesh import make_mesh
from o1jax.parallel.processes import start_processes

# Tied, with rows of the vocabulary that are no token: both are changed for vLLM. And of more tensors than a
# process may gather ahead of the other.
CONFIG = ModelConfig("qwen2", 64, 32, 8, 4, 2, 8, 48, 64, tie_embeddings=True, qkv_bias=True, n_tokens=60)

if __name__ == "__main__":
    start_processes()
    params = init_params(CONFIG, 0, make_mesh({"fsdp": jax.device_count()}))[1]
    index = jax.process_index()
    root = epath.Path(sys.argv[1:][index % len(sys.argv[1:])])
    print(json.dumps([str(written(root / f"push_{index}_{k}", CONFIG, params)) for k in range(2)]))
