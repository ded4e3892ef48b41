"""Trains a policy on the preferences in searched trees.

python launch/policy_dpo.py --config=configs/policy_dpo.py --workdir=runs/policy_dpo
"""

import stage

if __name__ == "__main__":
    stage.launch("policy_dpo")
