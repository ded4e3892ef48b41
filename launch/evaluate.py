"""Evaluates a policy on held-out problems: pass@k, direct against pseudocode, ASPR, best-of-n.

    python launch/evaluate.py --config=configs/evaluate.py --workdir=runs/evaluate

With --config.inputs.samples=runs/evaluate, that evaluation's samples are judged again, and none are drawn:
by other tests, or read by --config.evaluate.sample.extract=strict (or lenient) instead.
"""

import stage

if __name__ == "__main__":
    stage.launch("evaluate")
