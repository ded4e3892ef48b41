"""What every launch script shares: the flags, and one clear line when the input is wrong."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import sys
from collections.abc import Callable, Iterator
from typing import Any, NoReturn

import jax
import pages
from absl import app, flags
from absl import logging as absl_logging
from etils import epath

from o1jax.buckets import package_missing
from o1jax.parallel.processes import this_process
from o1jax.records import InputError
from o1jax.stages.beats import TRY_AGAIN, PeerLost
from o1jax.train import throughput
from o1jax.writing import naming

os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")  # it would say that there is no PyTorch

INTERRUPTS = (signal.SIGTERM, signal.SIGINT)
COORDINATOR = flags.DEFINE_string(
    "coordinator", "", "host:port of process 0, or auto (Slurm, Open MPI, TPU); alone if empty."
)
PROCESSES = flags.DEFINE_integer("processes", None, "How many processes run this script.", lower_bound=1)
PROCESS_INDEX = flags.DEFINE_integer("process_index", None, "Which of them this is, from 0.", lower_bound=0)
WORKDIR = flags.DEFINE_string(
    "workdir", "", "Directory of the run, also gs:// or s3://; runs/<script> if empty."
)
PROFILE_STEPS = flags.DEFINE_string(
    "profile_steps", "", "First and last (not in it) step of training, or update, to trace, as 10,13."
)
PROFILE_HOSTS = flags.DEFINE_string("profile_hosts", "", "Which processes trace, as 0,3, or all; 0 if empty.")
PROFILER_PORT = flags.DEFINE_integer("profiler_port", None, "Process i serves the profiler on this port + i.")


def start(page: str, main: Callable[[epath.Path, dict[str, Any]], None]) -> None:
    """Parses --workdir, --config (default configs/<page>.py) and --config.key=value; calls main with the
    run's directory and the page as JSON values.

    Exit code 2 and one line on stderr when flags, config or input are wrong.
    """
    with one_line_errors():
        config = pages.Page(pages.CONFIGS / f"{page}.py", sys.argv[1:])
    sys.argv[1:] = config.others

    def run_page(argv: list[str]) -> None:
        if len(argv) > 1:
            fail(f"unexpected argument {argv[1]!r}: write --config.key=value and --workdir=directory")
        main(epath.Path(WORKDIR.value or f"runs/{page}"), config.settings())

    run(run_page, "config")


def run(main: Callable[[list[str]], None], *shown: str) -> None:
    """Parses the flags and calls `main` with the arguments that are none; errors as `start`. --help shows the
    script's own flags, those about processes, and `shown`."""
    # Off the path from here on: launch/profile.py would stand before Python's own module, which vLLM imports.
    here = os.path.dirname(os.path.realpath(__file__))
    sys.path[:] = [at for at in sys.path if os.path.realpath(at) != here]
    for number in INTERRUPTS:
        if signal.getsignal(number) is not signal.SIG_IGN:  # as a shell's background jobs have Ctrl-C
            signal.signal(number, lambda number, frame: sys.exit(128 + number))
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    for stream in (sys.stdout, sys.stderr):  # a locale that lacks a letter shows its number
        stream.reconfigure(errors="backslashreplace")

    profiling = ("profile_steps", "profile_hosts", "profiler_port")
    for name in ("workdir", "coordinator", "processes", "process_index", *profiling, *shown):
        flags.FLAGS.register_key_flag_for_module(sys.argv[0], flags.FLAGS[name])

    def run_main(argv: list[str]) -> None:
        absl_logging.set_verbosity(absl_logging.WARNING)
        try:
            take_place()
            with naming(WORKDIR.value or "the run's directory"):
                main(argv)
        except PeerLost as error:
            fail(str(error), TRY_AGAIN)
        except (InputError, OSError) as error:
            fail(str(error))

    def parse(argv: list[str]) -> list[str]:
        with one_line_errors():
            return flags.FLAGS(argv)

    try:
        app.run(run_main, flags_parser=parse)
    except SystemExit as ended:
        if ended.code in {128 + number for number in INTERRUPTS}:
            print("interrupted: the same command goes on from what is written", file=sys.stderr)
        if not ended.code and not jax.distributed.is_initialized():
            # all is written; a library's C++ thread may abort an interpreter that winds down
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(0)
        raise


def take_place() -> None:
    """Hands the flags about processes and profiles on to the stages, by environment; all but process 0 print
    nothing."""
    given = {
        "O1JAX_COORDINATOR": COORDINATOR.value,
        "O1JAX_PROCESSES": PROCESSES.value,
        "O1JAX_PROCESS_INDEX": PROCESS_INDEX.value,
        throughput.STEPS: PROFILE_STEPS.value,
        throughput.HOSTS: PROFILE_HOSTS.value,
        throughput.PORT: PROFILER_PORT.value,
    }
    os.environ.update({name: str(value) for name, value in given.items() if value not in ("", None)})
    throughput.profile_steps(os.environ)  # InputError now, and not when training begins
    if package := package_missing(WORKDIR.value):
        raise InputError(f"--workdir={WORKDIR.value}: install the package {package}, which opens such paths")
    if this_process().index:
        sys.stdout = open(os.devnull, "w", encoding="utf-8")


@contextlib.contextmanager
def one_line_errors() -> Iterator[None]:
    """An unknown flag or config key, a bad value or a missing page ends the script with its last line."""
    try:
        yield
    except InputError as error:
        fail(str(error))
    except (flags.Error, AttributeError, ImportError, KeyError, OSError, TypeError, ValueError) as error:
        fail(str(error).strip().splitlines()[-1])


def fail(message: str, code: int = 2) -> NoReturn:
    """One line on stderr, and that exit code."""
    print("error: " + " ".join(message.split()), file=sys.stderr)
    sys.exit(code)
