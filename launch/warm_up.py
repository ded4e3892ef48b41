"""Trains the nano tokenizer and policy on a few reference programs of the ladder.

python launch/warm_up.py --config=configs/warm_up.py --workdir=runs/warm_up
"""

import stage

if __name__ == "__main__":
    stage.launch("warm_up")
