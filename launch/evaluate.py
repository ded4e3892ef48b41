"""Evaluates a policy on held-out problems: pass@k, ASPR, best-of-n.

python launch/evaluate.py --config=configs/evaluate.py --workdir=runs/evaluate
"""

import stage

if __name__ == "__main__":
    stage.launch("evaluate")
