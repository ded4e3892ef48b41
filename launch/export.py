"""Writes a policy as safetensors, with its config.json and tokenizer, for transformers and vLLM to load.

    python launch/export.py runs/demo/round_01/policy_sft runs/demo/weights

Reads a stage that has a policy, or a policy's directory; merges nothing, for a stage's policy is merged.
"""

import entry
from etils import epath

from o1jax.stages.training import open_policy
from o1jax.train.checkpoint import export_policy


def main(argv: list[str]) -> None:
    if len(argv) != 3:
        entry.fail(f"saw {len(argv) - 1} arguments, wanted two: a stage with a policy, and a new directory")
    policy, out = open_policy(epath.Path(argv[1])), epath.Path(argv[2])
    if out.exists() and any(out.iterdir()):
        entry.fail(f"{out}: not empty; give a new directory")
    export_policy(out, policy.config, policy.params, policy.tokenizer)
    print(f"export: {out}\nnext: python launch/evaluate.py --config.inputs.policy={out}")


if __name__ == "__main__":
    entry.run(main)
