"""Writes tests for problems with a generator, gated on their reference programs.

python launch/write_tests.py --config=configs/write_tests.py --workdir=runs/write_tests
"""

import stage

if __name__ == "__main__":
    stage.launch("write_tests")
