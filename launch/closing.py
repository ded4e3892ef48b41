"""The last lines of every launch script: what was done, the headline figures, what to look at or run next.

Writes the page of the run, which is what there is to look at.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from typing import Any

from etils import epath

from o1jax.parallel.processes import this_process
from o1jax.report import page, summary
from o1jax.report.run_files import RunFiles

NEXT = {  # stage -> what goes on from its directory
    "check_problems": "python launch/search.py --config=configs/search.py:nano --config.problems={}",
    "write_tests": "python launch/search.py --config=configs/search.py:nano --config.problems={}",
    "warm_up": "python launch/evaluate.py --config.inputs.policy={}",
    "policy_sft": "python launch/evaluate.py --config.inputs.policy={}",
    "policy_dpo": "python launch/evaluate.py --config.inputs.policy={}",
    "policy_rl": "python launch/evaluate.py --config.inputs.policy={}",
    "sample": "python launch/policy_sft.py --config.inputs.found_0={}",
    "search": "python launch/policy_sft.py --config.inputs.found_0={}",
    "tcg_adversarial": "python launch/write_tests.py --config.inputs.tcg={}",
}


def after_tcg(workdir: epath.Path, config: Mapping[str, Any]) -> str:
    """The command that writes tests with the last generator of a page of launch/tcg.py, as was measured."""
    form, arms = list(config["forms"].items())[-1]
    measured = config["evaluate_tcg"]
    flags = {
        "inputs.tcg": f"{workdir}/tcg/{form}/{list(arms['dpo'])[-1]}",
        "write_tests.write.traced": form == "traced",
        "write_tests.write.style": config["tcg_sft"]["cases"]["style"],
        "write_tests.write.max_tokens": measured["write"]["max_tokens"],
        "write_tests.engine.context": measured["engine"]["context"],
    }
    return _command("write_tests", "", flags)


def after_prm(workdir: epath.Path, config: Mapping[str, Any]) -> str:
    """The command that rewards by the hard model of a page of launch/prm.py: the policy it was made from
    goes on, with its tokenizer, and alpha falls, so that a step's score counts."""
    flags = {
        "inputs.policy": config["policy"] or f"{workdir}/warm_up",
        **({} if config["pool_trees"] else {"inputs.problems": f"{workdir}/problems/pool"}),
        "inputs.prm": f"{workdir}/prm/hard",
        "policy_rl.reward.alpha.kind": "linear",
    }
    return _command("policy_rl", config["prm"]["train"]["model"], flags)


def _command(script: str, variant: str, flags: Mapping[str, Any]) -> str:
    config = f"configs/{script}.py" + (f":{variant}" if variant else "")
    given = " ".join(f"--config.{name}={value}" for name, value in flags.items())
    return f"python launch/{script}.py --config={config} {given}"


def of_run(workdir: epath.Path, did: str, then: str = "", *, out: epath.Path | None = None) -> None:
    """In process 0 writes the page, to `out` or into the run, and prints; `then` is the command that goes on
    from here."""
    if this_process().index:
        return
    files = RunFiles(workdir)
    where = out or workdir / "report.html"
    said = page.write(where, files, summary.of(files))
    for fault in files.faults:
        print(f"damaged or missing: {fault}", file=sys.stderr)
    lines: Sequence[str] = (f"{said.word}: {said.text}", *(f"  {line}" for line in said.more))
    print("\n".join(("", did, *lines, f"look at: {where}", *([f"next: {then}"] if then else []))))


def of_stage(workdir: epath.Path, stage: str, seconds: float) -> None:
    """As `of_run`, of a directory that is one stage."""
    did = f"{stage}: {seconds:.1f} s, {workdir}/manifest.json has every figure"
    of_run(workdir, did, NEXT.get(stage, f"python launch/lineage.py {workdir}").format(workdir))
