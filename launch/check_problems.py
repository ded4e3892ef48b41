"""Reads problems, runs their reference programs, lists what is inconsistent.

python launch/check_problems.py --config=configs/check_problems.py --workdir=runs/check_problems
"""

import stage

if __name__ == "__main__":
    stage.launch("check_problems")
