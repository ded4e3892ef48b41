"""`python -m o1jax.stages OUT REQUEST`: one stage, as self_play starts it. People use launch/."""

from __future__ import annotations

import ctypes
import json
import logging
import os
import signal
import sys

import jax
from etils import epath

from o1jax.records import InputError
from o1jax.sandbox.interface import SandboxError
from o1jax.stages import run
from o1jax.stages.beats import TRY_AGAIN, PeerLost
from o1jax.train.step import NonFiniteLoss

PR_SET_PDEATHSIG = 1


def main(out: str, request: str) -> int:
    """Exit code 0, or after one line on stderr 2, or TRY_AGAIN where another process was lost."""
    if sys.platform == "linux":  # a stage whose self_play was killed saves and ends too
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches both; self_play answers it with SIGTERM
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    sys.stdout.reconfigure(errors="backslashreplace")  # a locale that lacks a letter shows its number
    try:
        run.run(epath.Path(out), run.spec_of(json.loads(request)))
    except (InputError, OSError, NonFiniteLoss, SandboxError) as error:
        print("error: " + " ".join(str(error).split()), file=sys.stderr)
        return TRY_AGAIN if isinstance(error, PeerLost) else run.REFUSED
    return 0


if __name__ == "__main__":
    code = main(*sys.argv[1:])
    if not code and not jax.distributed.is_initialized():
        # all is written; a library's C++ thread may abort an interpreter that winds down
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(0)
    sys.exit(code)
