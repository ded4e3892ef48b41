"""Trains a policy by policy gradient on its own answers.

python launch/policy_rl.py --config=configs/policy_rl.py --workdir=runs/policy_rl
"""

import stage

if __name__ == "__main__":
    stage.launch("policy_rl")
