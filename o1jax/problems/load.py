"""Problems from whatever a user names. A source is one of

    problems.jsonl               a file in our own format, or in TACO's (its fields tell which)
    runs/mbpp                    a directory of prepared problems: its problems.parquet
    mbpp:test                    a split of a published set, through the datasets library and its cache
    humaneval                    all splits of one
    mbpp:path/to/mbpp.jsonl      a file in a set's published format, all of it
    mbpp:path/to/mbpp.jsonl:test that split of it (other sets' files hold one split: which one it is)

The sets are in SETS. A file is .jsonl or .json (both perhaps .gz) or .parquet. The built-in problems are made
in ladder/, not loaded; what a stage hands to the next one is read by stages/problems.py.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable
from typing import Any

from etils import epath

from o1jax.digits import many_digits
from o1jax.problems import files
from o1jax.problems.formats import codecontests, humaneval, jsonl, mbpp, taco
from o1jax.records import InputError, Problem

Record = dict[str, Any]
Each = Callable[[Problem], Problem]
Reader = Callable[[Any, int, str], Problem | None]  # of record, index, where; None: of another split


@dataclasses.dataclass(frozen=True)
class PublishedSet:
    """Where a set is published, and who reads its records."""

    repository: str  # on the Hugging Face hub
    splits: tuple[str, ...]
    problem_of: Callable[[Record, int, str, str], Problem]  # of record, index, where and split
    config: str | None = None  # which of the repository's configurations, if it has several
    files: str = ""  # a split's Parquet files, where the datasets library (4.0 on) refuses to run a script
    split_of: Callable[[Record, str], str] | None = None  # of record and where, if records say their split


TACO_FILES = "hf://datasets/BAAI/TACO/ALL/{split}-*.parquet"
APPS_FILES = "hf://datasets/codeparrot/apps@refs/convert/parquet/all/{split}/*.parquet"
LADDER = "ladder:"  # how a source begins that is made in ladder/
PREPARED = "problems.parquet"  # in a directory of prepared problems
MBPP = "google-research-datasets/mbpp"
MBPP_SPLITS = ("train", "test", "validation", "prompt")
SETS = {
    "taco": PublishedSet("BAAI/TACO", ("train", "test"), taco.problem_of, files=TACO_FILES),
    "apps": PublishedSet("codeparrot/apps", ("train", "test"), taco.apps_problem_of, files=APPS_FILES),
    "mbpp": PublishedSet(MBPP, MBPP_SPLITS, mbpp.problem_of, "full", split_of=mbpp.split_of),
    "mbpp_sanitized": PublishedSet(MBPP, MBPP_SPLITS, mbpp.problem_of, "sanitized", split_of=mbpp.split_of),
    "humaneval": PublishedSet("openai/openai_humaneval", ("test",), humaneval.problem_of),
    "humaneval_plus": PublishedSet("evalplus/humanevalplus", ("test",), humaneval.problem_of),
    "codecontests": PublishedSet(
        "deepmind/code_contests", ("train", "valid", "test"), codecontests.problem_of
    ),
}


@dataclasses.dataclass(frozen=True)
class Loaded:
    """The problems of a source."""

    problems: tuple[Problem, ...]
    malformed: tuple[str, ...] = ()  # a line for every record left out, with its index and field


def load_problems(source: str, each: Each = lambda problem: problem, *, strict: bool = False) -> Loaded:
    """The well-formed problems of a source, each as `each` makes it (or refuses it, by InputError) while the
    next is not read yet: so tests past a cap do not pile up.

    Raises InputError in one line for no such source, for one without a problem and, if `strict`, for the
    first malformed record.
    """
    name, _, rest = source.partition(":")
    return accepted(source, _of_set(name, rest, each) if name in SETS else _of_file(source, each), strict)


def accepted(source: str, loaded: Loaded, strict: bool) -> Loaded:
    """`loaded` itself. Raises InputError where it has no problem and, if `strict`, a malformed record."""
    if not loaded.problems:
        raise InputError(loaded.malformed[0] if loaded.malformed else f"{source}: no problems in it")
    if strict and loaded.malformed:
        raise InputError(
            f"{loaded.malformed[0]} ({len(loaded.malformed)} malformed; strict=False skips them)"
        )
    return loaded


def collect(source: str, records: Iterable[Any], reader: Reader, each: Each) -> Loaded:
    """What a reader makes of the records, and `each` of that: malformed ones and equal ids apart."""
    problems: dict[str, Problem] = {}
    malformed = []
    for i, record in enumerate(records):
        where = f"{source} record {i}"
        try:
            with many_digits():  # a message may show them
                problem = reader(record, i, where)
                if problem is not None and problem.id in problems:
                    raise InputError(f"{where} field 'id': {problem.id!r} seen before, wanted a new one")
                if problem is not None:
                    problems[problem.id] = each(problem)
        except InputError as error:
            malformed.append(str(error))
    return Loaded(tuple(problems.values()), tuple(malformed))


def file_of(source: str) -> epath.Path | None:
    """The local file that a source is read from, even if it is missing; None where there is none to read."""
    name, _, rest = source.partition(":")
    path = _path_and_split(SETS[name], rest)[0] if name in SETS else source
    if not path or source.startswith(LADDER):
        return None
    given = epath.Path(path)
    return given / PREPARED if given.is_dir() else given


def _of_set(name: str, rest: str, each: Each) -> Loaded:
    published = SETS[name]
    path, split = _path_and_split(published, rest)
    if path:
        return collect(path, files.read_records(path), _reader_of(published, split), each)
    problems, malformed = [], []
    for part in [split] if split else published.splits:
        loaded = collect(f"{name}:{part}", _download(name, part), _reader_of(published, part), each)
        problems += loaded.problems
        malformed += loaded.malformed
    return Loaded(tuple(problems), tuple(malformed))


def _path_and_split(published: PublishedSet, rest: str) -> tuple[str, str]:
    """What stands behind a set's name: a path, or "", and one of its splits, or ""."""
    path, _, split = rest.rpartition(":")
    return (path, split) if split in published.splits else (rest, "")


def _reader_of(published: PublishedSet, split: str) -> Reader:
    def read(record: Record, i: int, where: str) -> Problem | None:
        if split and published.split_of is not None and published.split_of(record, where) != split:
            return None
        return published.problem_of(record, i, where, split or published.splits[0])

    return read


def _download(name: str, split: str) -> Iterable[Record]:
    """The records of a published set's split, through the datasets library and its cache."""
    import datasets  # seconds to import, and only a named set needs it

    published = SETS[name]
    try:
        if published.files:
            paths = {split: published.files.format(split=split)}
            return datasets.load_dataset("parquet", data_files=paths, split=split)
        return datasets.load_dataset(published.repository, published.config, split=split)
    except (OSError, ValueError, RuntimeError, datasets.exceptions.DatasetsError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise InputError(
            f"{name}:{split}: cannot load {published.repository} ({reason:.120}); "
            f"give a local file, {name}:path/to/file"
        ) from error


def _of_file(source: str, each: Each) -> Loaded:
    path = str(file_of(source) or source)
    records = files.read_records(path)
    # Not simply the first record: it may be malformed, and then says nothing of the others' format.
    telling = next((record for record in records if {"input_output", "form"} & set(record)), records[0])
    if "input_output" in telling:
        return collect(path, records, taco.problem_of, each)
    if "form" in telling:
        return collect(path, records, lambda record, i, where: jsonl.problem_of(record, where), each)
    raise InputError(
        f"{path} record 0: fields {sorted(records[0])[:6]}, wanted 'form' (ours) or 'input_output' (TACO), "
        f"or the name of a set before it: {', '.join(SETS)}"
    )
