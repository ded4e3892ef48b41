"""The page of an experiment, with every setting that a flag may change.

--config=<file>:<variant> names the page. What it leaves out of a stage's settings is filled in with the
stage's defaults, so that flags find it, and taken out again where no flag changed it: what is run is the page
and what was asked for, no more.
"""

from __future__ import annotations

import importlib.util
import json
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from absl import flags
from ml_collections import config_dict, config_flags

from o1jax.records import InputError
from o1jax.stages import run
from o1jax.stages.settings import defaults, merged, new_name

FLAG = "--config"
MOST_FOUND = 8  # inputs found_<k> of a page that has found_0
NAMES = ("counts", "arms", "forms")  # mappings whose keys are names of the page's own: replaced whole
# Pages of a recipe that hold the settings of a stage under a name of their own.
STAGE_OF = {
    "search_evaluate": "evaluate",
    "evaluate_few_shot": "evaluate",
    "scout": "sample",
    "rest": "sample",
    **dict.fromkeys(
        (
            "references",
            "validation",
            "calibration",
            "pool",
            "held_out",
            "audit",
            "tcg_problems",
            "tcg_held_out",
        ),
        "check_problems",
    ),
}
CONFIGS = pathlib.Path(__file__).parents[1] / "configs"


class Page:
    """The page that `arguments` name, or else `default`, and its flags. InputError where there is no such
    page, variant or setting."""

    def __init__(
        self, default: pathlib.Path, arguments: Sequence[str], flag_values: flags.FlagValues = flags.FLAGS
    ):
        named, self.others = named_page(arguments)
        self._page = loaded(named or str(default))
        self._filled = with_stage_defaults(self._page)
        for argument in self.others:
            check(argument, self._filled)
        self._holder = config_flags.DEFINE_config_dict(
            "config",
            config_dict.ConfigDict(self._filled),
            f"The experiment's page: file:variant, {default.name} if empty; --config.key=value changes it.",
            flag_values,
            sys_argv=list(self.others),
        )

    def settings(self) -> dict[str, Any]:
        """After the flags are parsed: the page's settings, and what flags changed, as JSON values."""
        filled = plain(config_dict.ConfigDict(self._filled))
        return changed(completed(plain(self._holder.value), filled), self._page, filled)


def completed(now: Mapping[str, Any], filled: Mapping[str, Any]) -> dict[str, Any]:
    """`now`, where a flag that set a whole record, as --config.evaluate.sample="{'n': 3}", left its other
    settings out: they are as they were. (ml_collections puts the new record in the old one's place.)"""
    kept = {
        key: completed(value, filled[key])
        if isinstance(value, Mapping) and isinstance(filled.get(key), Mapping) and key not in NAMES
        else value
        for key, value in now.items()
    }
    return {key: kept.get(key, value) for key, value in filled.items()} | kept


def plain(config: config_dict.ConfigDict) -> dict[str, Any]:
    """JSON values, in the page's order (to_dict would sort them)."""
    return json.loads(config.to_json_best_effort())


def named_page(arguments: Sequence[str]) -> tuple[str, list[str]]:
    """(what --config says, the other arguments)."""
    named, others, waiting = "", [], False
    for argument in arguments:
        if waiting or argument.startswith((f"{FLAG}=", f"{FLAG[1:]}=")):
            named, waiting = argument if waiting else argument.partition("=")[2], False
        elif argument in (FLAG, FLAG[1:]):
            waiting = True
        else:
            others.append(argument)
    return named, others


def loaded(named: str) -> dict[str, Any]:
    """The page file[:variant]. InputError that lists what there is, where it is none."""
    name, _, variant = named.partition(":")
    path = pathlib.Path(name)
    if not path.is_file():
        there = ", ".join(sorted(page.name for page in CONFIGS.glob("*.py")))
        raise InputError(f"{FLAG}: saw {name}, which is no file; in configs/ there are {there}")
    spec = importlib.util.spec_from_file_location("page", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    try:
        return as_written(module.get_config(*([variant] if variant else [])))
    except (TypeError, ValueError) as error:
        raise InputError(f"{FLAG}={named}: {error}") from error


def as_written(config: config_dict.ConfigDict) -> dict[str, Any]:
    """The page's own values, in its order."""
    return {
        key: as_written(config[key]) if isinstance(config[key], config_dict.ConfigDict) else config[key]
        for key in plain(config)
    }


def check(argument: str, filled: Mapping[str, Any]) -> None:
    """InputError where an argument sets what the page does not have."""
    if not argument.lstrip("-").startswith("config."):
        return
    *path, last = argument.lstrip("-").partition("=")[0].split(".")[1:]
    at, where = filled, "config"
    for key in (*path, last):
        if not isinstance(at, Mapping) or key not in at:
            record = settings_record(path[0]) if path else None
            if record and (new := new_name(record, key)):
                raise InputError(f"--{where}.{key}: it is --{where}.{new} now")
            has = ", ".join(sorted(at)) if isinstance(at, Mapping) else "no settings of its own"
            raise InputError(f"--{where}.{key}: no such setting; {where} has {has}")
        at, where = at[key], f"{where}.{key}"


def with_stage_defaults(page: Mapping[str, Any]) -> dict[str, Any]:
    """The page, the settings of its stages complete, and the inputs found_<k> that may be given."""
    filled = {
        key: with_defaults(record, value) if (record := settings_record(key)) else value
        for key, value in page.items()
    }
    if "found_0" in page.get("inputs", {}):
        filled["inputs"] = {**page["inputs"]}
        for k in range(1, MOST_FOUND):
            filled["inputs"].setdefault(f"found_{k}", "")
    return filled


def settings_record(key: str) -> type | None:
    """The record whose settings a page holds under `key`, if they are a stage's."""
    stage = STAGE_OF.get(key, key)
    return run.module_of(stage).Settings if stage in run.STAGES else None


def with_defaults(cls: type, given: Mapping[str, Any]) -> dict[str, Any]:
    """What is given for a settings record `cls`, and the defaults of what is not, but for None and empty
    mappings, whose keys nobody knows."""
    under = {key: value for key, value in defaults(cls).items() if value is not None and value != {}}
    return merged(under, given)


def changed(now: Mapping[str, Any], page: Mapping[str, Any], filled: Mapping[str, Any]) -> dict[str, Any]:
    """`now` without the settings that the page leaves out and that are as they were filled in."""
    kept: dict[str, Any] = {}
    for key, value in now.items():
        if key not in page:
            if key not in filled or value != filled[key]:
                kept[key] = value
        elif isinstance(value, Mapping) and isinstance(page[key], Mapping):
            kept[key] = changed(value, page[key], filled[key])
        else:
            kept[key] = value
    return kept
