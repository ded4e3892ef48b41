"""Says what made a stage, or a sample that it trained on: stages, trees, tests, policies.

    python launch/lineage.py runs/demo/round_01/policy_sft
    python launch/lineage.py runs/demo/round_01/policy_sft --problem='<id>'
    python launch/lineage.py runs/demo/round_01/policy_sft --sample='<id>'

Reads a run that has ended or is under way, and writes nothing.
"""

import dataclasses
import json
import signal

import entry
from absl import flags
from etils import epath

from o1jax.lineage.text import text
from o1jax.lineage.trace import trace

SAMPLE = flags.DEFINE_string("sample", "", "Id of a sample that the stage trained on.")
PROBLEM = flags.DEFINE_string("problem", "", "Id of a problem: all its samples that the stage trained on.")
JSON = flags.DEFINE_bool("json", False, "Print one JSON object (o1jax.lineage.trace.Lineage).")


def main(argv: list[str]) -> None:
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # a reader such as head may close early
    if len(argv) != 2:
        entry.fail(f"saw {len(argv) - 1} arguments, wanted one: the directory of a stage")
    lineage = trace(epath.Path(argv[1]), sample=SAMPLE.value, problem=PROBLEM.value)
    print(json.dumps(dataclasses.asdict(lineage), indent=1) if JSON.value else text(lineage))


if __name__ == "__main__":
    entry.run(main)
