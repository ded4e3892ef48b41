"""Problems from whatever a user names. A source is one of

    problems.jsonl               a file of ours, or in TACO's format (told by its fields)
    runs/mbpp                    a directory of prepared problems
    mbpp:test                    a split of a published set, through the datasets library and its cache
    humaneval                    all splits of one
    mbpp:path/to/mbpp.jsonl      a file in a set's published format, all of it
    mbpp:path/to/mbpp.jsonl:test that split of it (other sets' files hold one split: which one it is)

The sets are in SETS. A file is .jsonl or .json (both perhaps .gz) or .parquet. The built-in problems are made
in ladder.py, not loaded.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable
from typing import Any

from etils import epath

from o1jax.problems import files
from o1jax.problems.formats import codecontests, humaneval, jsonl, mbpp, taco
from o1jax.records import InputError, Problem

Record = dict[str, Any]
Each = Callable[[Problem], Problem]
Reader = Callable[[Record, int, str], Problem | None]  # record, index, where; None: of another split


@dataclasses.dataclass(frozen=True)
class PublishedSet:
    """Where a set is published, and who reads its records: problem_of(record, index, where, split).

    `files` names the Parquet files of a split, for a repository that the datasets library would need a script
    for (it runs none since 4.0). `split_of(record, where)` is there where records themselves say their split.
    """

    repository: str
    splits: tuple[str, ...]
    problem_of: Callable[[Record, int, str, str], Problem]
    config: str | None = None
    files: str = ""
    split_of: Callable[[Record, str], str] | None = None


TACO_FILES = "hf://datasets/BAAI/TACO/ALL/{split}-*.parquet"
APPS_FILES = "hf://datasets/codeparrot/apps@refs/convert/parquet/all/{split}/*.parquet"
LADDER = "ladder:"  # how a source begins that is made in ladder.py
DIRECTORY = ("problems.parquet", "problems.jsonl")  # of prepared problems, one of them
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
    """`malformed`: a line for every record left out, with its index and field."""

    problems: tuple[Problem, ...]
    malformed: tuple[str, ...] = ()


def load_problems(source: str, limit: int = 0) -> list[Problem]:
    """The problems of a source, the first `limit` if that is not 0. Raises InputError in one line for
    anything malformed."""
    if limit < 0:
        raise InputError(f"problems: limit {limit}, wanted 0 (all) or more")
    loaded = load_well_formed(source)
    if loaded.malformed:
        raise InputError(loaded.malformed[0])
    return list(loaded.problems[: limit or None])


def load_well_formed(source: str, each: Each = lambda problem: problem) -> Loaded:
    """The well-formed problems of a source, each as `each` makes it (or refuses it, by InputError) while the
    next is not read yet: so tests past a cap do not pile up. Raises InputError if there is none, or no such
    source."""
    name, _, rest = source.partition(":")
    loaded = _of_set(name, rest, each) if name in SETS else _of_file(source, each)
    if not loaded.problems:
        raise InputError(loaded.malformed[0] if loaded.malformed else f"{source}: no problems in it")
    return loaded


def file_of(source: str) -> epath.Path | None:
    """The local file that a source is read from, even if it is missing; None where there is none to read."""
    name, _, rest = source.partition(":")
    path = _path_and_split(SETS[name], rest)[0] if name in SETS else source
    return None if not path or source.startswith(LADDER) else _file(epath.Path(path))


def _file(place: epath.Path) -> epath.Path:
    """A file, or the one of a directory of prepared problems."""
    if not place.is_dir():
        return place
    places = [place / name for name in DIRECTORY]
    return next((path for path in places if path.exists()), places[-1])


def _of_set(name: str, rest: str, each: Each) -> Loaded:
    published = SETS[name]
    path, split = _path_and_split(published, rest)
    if path:
        return _read(path, files.read_records(path), _reader_of(published, split), each)
    parts = [
        _read(f"{name}:{part}", _download(name, part), _reader_of(published, part), each)
        for part in ([split] if split else published.splits)
    ]
    return Loaded(
        tuple(problem for part in parts for problem in part.problems),
        tuple(line for part in parts for line in part.malformed),
    )


def _path_and_split(published: PublishedSet, rest: str) -> tuple[str, str]:
    """What stands behind a set's name: a path, or "", and one of its splits, or ""."""
    path, _, split = rest.rpartition(":")
    return (path, split) if split in published.splits else (rest, "")


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
    source = str(_file(epath.Path(source)))
    records = files.read_records(source)
    told = next((record for record in records if {"input_output", "form"} & set(record)), records[0])
    if "input_output" in told:
        return _read(source, records, taco.problem_of, each)
    if "form" in told:
        return _read(source, records, lambda record, i, where: jsonl.problem_of(record, where), each)
    raise InputError(
        f"{source} record 0: fields {sorted(records[0])[:6]}, wanted 'form' (ours) or 'input_output' (TACO), "
        f"or the name of a set before it: {', '.join(SETS)}"
    )


def _reader_of(published: PublishedSet, split: str) -> Reader:
    def read(record: Record, i: int, where: str) -> Problem | None:
        if split and published.split_of is not None and published.split_of(record, where) != split:
            return None
        return published.problem_of(record, i, where, split or published.splits[0])

    return read


def _read(source: str, records: Iterable[Record], reader: Reader, each: Each) -> Loaded:
    """What a reader makes of the records: malformed ones and equal ids apart."""
    problems: dict[str, Problem] = {}
    malformed = []
    for i, record in enumerate(records):
        where = f"{source} record {i}"
        try:
            problem = reader(record, i, where)
            if problem is not None and problem.id in problems:
                raise InputError(f"{where} field 'id': {problem.id!r} seen before, wanted a new one")
            if problem is not None:
                problems[problem.id] = each(problem)
        except InputError as error:
            malformed.append(str(error))
    return Loaded(tuple(problems.values()), tuple(malformed))
