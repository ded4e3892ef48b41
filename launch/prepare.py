"""Reads or downloads problems, runs their reference programs, keeps what is wanted, writes a card of it.

    python launch/prepare.py --config=configs/prepare.py:mbpp --workdir=runs/mbpp

The same command again goes on where it stopped.
"""

import stage

if __name__ == "__main__":
    stage.launch("check_problems", page="prepare")
