"""What every launch script shares: the flags, and one clear line when the input is wrong."""

from __future__ import annotations

import json
import logging
import signal
import sys
from collections.abc import Callable

from absl import app, flags
from etils import epath
from ml_collections import config_dict, config_flags

from o1jax.records import InputError

WORKDIR = flags.DEFINE_string(
    "workdir", "", "Directory of the run, perhaps a bucket; runs/<script> if empty."
)


def start(page: str, main: Callable[[epath.Path, config_dict.ConfigDict], None]) -> None:
    """Parses --workdir, --config (default configs/<page>.py) and --config.key=value; calls main.

    Exit code 2 and one line on stderr when flags, config or input are wrong.
    """
    config = config_flags.DEFINE_config_file("config", f"configs/{page}.py", "The experiment's page.")
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    logging.basicConfig(level=logging.WARNING, format="%(message)s")

    def run(argv: list[str]) -> None:
        if len(argv) > 1:
            fail(f"unexpected argument {argv[1]!r}: write --config.key=value and --workdir=directory")
        try:
            main(epath.Path(WORKDIR.value or f"runs/{page}"), config.value)
        except (InputError, OSError) as error:
            fail(str(error))

    app.run(run, flags_parser=parse_flags)


def parse_flags(argv: list[str]) -> list[str]:
    """As absl's own, but an unknown config key, a bad value or a missing page is one line too."""
    try:
        return flags.FLAGS(argv)
    except flags.Error as error:
        fail(str(error))
    except (KeyError, AttributeError) as error:
        fail(f"--config: {error.args[0] if error.args else error}")
    except (OSError, ValueError, TypeError) as error:
        fail(f"--config: {error}")


def fail(message: str) -> None:
    """One line on stderr, exit code 2."""
    print("error: " + " ".join(message.split()), file=sys.stderr)
    sys.exit(2)


def plain(config: config_dict.ConfigDict) -> dict:
    """The config as JSON values."""
    return json.loads(config.to_json_best_effort())
