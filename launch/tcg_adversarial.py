"""Trains a test-case generator to kill a policy's wrong programs.

python launch/tcg_adversarial.py --config=configs/tcg_adversarial.py --workdir=runs/tcg_adversarial
"""

import stage

if __name__ == "__main__":
    stage.launch("tcg_adversarial")
