"""Trains a policy on the paths that pass.

python launch/policy_sft.py --config=configs/policy_sft.py --workdir=runs/policy_sft
"""

import stage

if __name__ == "__main__":
    stage.launch("policy_sft")
