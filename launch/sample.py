"""Samples whole answers and judges them: the arm beside search.

python launch/sample.py --config=configs/sample.py --workdir=runs/sample
"""

import stage

if __name__ == "__main__":
    stage.launch("sample")
