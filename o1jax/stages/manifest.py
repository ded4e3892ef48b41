"""The stage protocol: a stage reads directories and writes one new directory, its manifest.json last.

A directory with a manifest is complete; one with a spec.json alone was begun and is resumed or
redone by the stage; one made from another spec is refused. Both files say by `places` where the inputs
were, which makes no other spec: what an input is, its hash says. Does not run stages (run.py does).
"""

from __future__ import annotations

import dataclasses
import hashlib
import importlib.metadata
import json
import platform
from collections.abc import Callable, Mapping
from typing import Any

from etils import epath

from o1jax.buckets import absolute
from o1jax.records import InputError
from o1jax.report.run_files import DEEPEST
from o1jax.train.integrity import files_of
from o1jax.writing import write_whole

PACKAGES = (
    "o1jax",
    "jax",
    "jaxlib",
    "flax",
    "optax",
    "orbax-checkpoint",
    "numpy",
    "transformers",
    "tokenizers",
)
WEIGHTS, GGUF = ".safetensors", ".gguf"
DESCRIBED_BY = (".json", ".jinja", ".model", ".txt")  # config, index, tokenizer and template beside weights
PIECES, PIECE_BYTES = 64, 1 << 16
LONGEST_HEADER = 100_000_000  # bytes, by the format


@dataclasses.dataclass(frozen=True)
class StageSpec:
    """What makes a stage's result: its name, resolved config (JSON values), seed, and inputs (name ->
    directory of a finished stage, or a policy's without a manifest: its checkpoint, or published weights).
    `files`, by names of their own among the inputs, are files that the config names."""

    stage: str
    config: Mapping[str, Any]
    seed: int
    inputs: Mapping[str, str]
    files: Mapping[str, str] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class StageResult:
    """figures: a pure function of the spec. timings: seconds and rates, which differ by machine."""

    figures: Mapping[str, Any]
    timings: Mapping[str, Any]


@dataclasses.dataclass(frozen=True)
class Input:
    """What a stage read under a name, and where that is now."""

    name: str
    hash: str  # of what was read
    directory: str  # its directory, or where that was; "" if that is not known
    fault: str = ""  # why what is there now is not what was read; "": it is


def begin(out: epath.Path, spec: StageSpec) -> dict[str, Any] | None:
    """The manifest when the stage is complete already, else None after writing spec.json.

    Raises InputError when `out` was made from another spec.
    """
    wanted = _identity(spec)
    manifest = read_manifest(out) if (out / "manifest.json").exists() else None
    if manifest is not None:
        _refuse_other(out, {key: manifest[key] for key in wanted}, wanted)
        return manifest
    if (out / "spec.json").exists():
        spec_json = read_spec(out)
        _refuse_other(out, {key: spec_json[key] for key in wanted}, wanted)
    else:
        out.mkdir(parents=True, exist_ok=True)
        write_json(out / "spec.json", {**wanted, "places": _places(spec)})
    return None


def finish(out: epath.Path, spec: StageSpec, result: StageResult) -> dict[str, Any]:
    """Writes manifest.json, the mark of completeness, and returns it."""
    manifest = {
        **_identity(spec),
        "places": _places(spec),
        "figures": result.figures,
        "timings": result.timings,
        "versions": versions(),
    }
    write_json(out / "manifest.json", manifest)
    return manifest


def read_manifest(out: epath.Path) -> dict[str, Any]:
    """Raises InputError when there is no such stage, or it is not complete, or its manifest is damaged."""
    if not (out / "manifest.json").exists():
        raise InputError(f"{out}: {_instead(out)}")
    return _read_json(out / "manifest.json")


def _instead(out: epath.Path) -> str:
    """What there is where a finished stage was wanted, and what to do."""
    if not out.exists():
        return "nothing is there; wanted the directory of a finished stage"
    if not out.is_dir():
        return f"a file; prepare it first: python launch/prepare.py --config.check_problems.source={out}"
    if (out / "spec.json").exists():
        return "no manifest.json, so this stage is not complete; run it again to finish it"
    stages = sorted(path.parent.name for path in out.glob("*/manifest.json"))
    if stages:
        return f"no manifest.json, so this is a run; wanted one of its stages, as {', '.join(stages[:6])}"
    return "no manifest.json; wanted the directory of a finished stage"


def read_spec(out: epath.Path) -> dict[str, Any]:
    """What begin() wrote. Raises InputError when the stage was never begun or its spec is damaged."""
    if not (out / "spec.json").exists():
        raise InputError(f"{out}: no manifest.json and no spec.json; wanted the directory of a stage")
    return _read_json(out / "spec.json")


def manifest_hash(out: epath.Path) -> str:
    """Hash of a finished stage's spec and figures; timings and versions do not enter."""
    manifest = read_manifest(out)
    kept = {key: manifest[key] for key in ("stage", "config", "seed", "inputs", "figures")}
    return hashlib.sha256(json.dumps(kept, sort_keys=True).encode()).hexdigest()[:16]


def input_hash(directory: epath.Path) -> str:
    """Hash of an input: a finished stage's manifest_hash, or else that of a policy's files: all of a policy
    directory's, or of published weights the safetensors and what describes them (DESCRIBED_BY), or the GGUF
    file.

    Read of a file are its size, the header of safetensors, and PIECES pieces of PIECE_BYTES, evenly spaced,
    the first and the last bytes among them: all of a file of up to 4 MiB. InputError if there is neither.
    """
    if directory.suffix == GGUF and directory.is_file():
        return _contents_hash({directory.name: directory})
    if not (directory / "manifest.json").exists():
        if (directory / "checkpoint").exists():
            return _contents_hash(files_of(directory))
        if (directory / "config.json").exists():
            paths = (path for path in directory.iterdir() if path.suffix in (WEIGHTS, *DESCRIBED_BY))
            return _contents_hash({path.name: path for path in paths})
    return manifest_hash(directory)


def file_hash(path: epath.Path) -> str:
    """Hash of a file's contents, all of them. InputError if there is none."""
    if not path.is_file():
        raise InputError(f"{path}: no such file, wanted .jsonl, .json (both perhaps .gz) or .parquet")
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:16]


def find_inputs(
    out: epath.Path, manifest: Mapping[str, Any], hashes_in: Callable[[str], Mapping[str, str]]
) -> tuple[Input, ...]:
    """The inputs that the manifest, or spec, of the stage in `out` names: each where it was, or wherever in
    the same run a stage of its hash is (the run may have been moved, and older manifests hold no places).
    `hashes_in` is run_hashes, perhaps cached."""
    # The run is where its summary is; a stage that stands alone is of none.
    above = (str(parent) for parent in list(out.parents)[:DEEPEST] if (parent / "summary.json").exists())
    run, places, inputs = next(above, ""), manifest.get("places", {}), []
    for name, wanted in sorted(manifest["inputs"].items()):
        directory = places.get(name, "")
        seen, fault = _hash_or_fault(epath.Path(directory)) if directory else ("", "")
        if seen != wanted and wanted in hashes_in(run):
            directory, fault = hashes_in(run)[wanted], ""
        elif not directory:
            fault = f"MISSING: no stage of this run has its hash, {wanted}"
        elif seen != wanted:
            fault = fault or f"CHANGED: its hash was {wanted}, and is {seen} now"
        inputs.append(Input(name, wanted, directory, fault))
    return tuple(inputs)


def run_hashes(root: str) -> dict[str, str]:
    """Hash -> directory of the complete stages of the run in `root`; none of "", no run."""
    depths = range(1, DEEPEST + 1) if root else ()
    paths = [
        path.parent for depth in depths for path in epath.Path(root).glob("*/" * depth + "manifest.json")
    ]
    return {hash: str(path) for path in paths if (hash := _hash_or_fault(path)[0])}


def _hash_or_fault(directory: epath.Path) -> tuple[str, str]:
    """(hash, "") of an input, or ("", why it has none)."""
    try:
        return file_hash(directory) if directory.is_file() else input_hash(directory), ""
    except InputError as error:
        return "", f"MISSING: {str(error).removeprefix(f'{directory}: ')}"


def _contents_hash(files: Mapping[str, epath.Path]) -> str:
    digests = {name: _contents_digest(path) for name, path in files.items()}
    return hashlib.sha256(json.dumps(digests, sort_keys=True).encode()).hexdigest()[:16]


def _contents_digest(path: epath.Path) -> str:
    """Of a file's size and of the parts that input_hash names."""
    size = path.stat().length
    digest = hashlib.sha256(str(size).encode())
    with path.open("rb") as file:
        if path.suffix == WEIGHTS:
            digest.update(file.read(min(int.from_bytes(file.read(8), "little"), LONGEST_HEADER)))
        pieces = [(k * (size - PIECE_BYTES) // (PIECES - 1), PIECE_BYTES) for k in range(PIECES)]
        for start, length in [(0, size)] if size <= PIECES * PIECE_BYTES else pieces:
            file.seek(start)
            digest.update(file.read(length))
    return digest.hexdigest()


def versions() -> dict[str, str]:
    """Of Python, the platform, and the packages that decide a result."""
    found = {name: importlib.metadata.version(name) for name in PACKAGES}
    return {"python": platform.python_version(), "platform": platform.platform(), **found}


def write_json(path: epath.Path, value: Any) -> None:
    """Writes whole or not at all: a reader never sees half a file."""
    write_whole(path, json.dumps(value, indent=1, sort_keys=True) + "\n")


def _identity(spec: StageSpec) -> dict[str, Any]:
    return {
        "stage": spec.stage,
        "config": json.loads(json.dumps(dict(spec.config))),
        "seed": spec.seed,
        "inputs": {name: _hash_of_input(name, path) for name, path in spec.inputs.items()}
        | {name: file_hash(epath.Path(path)) for name, path in spec.files.items()},
    }


def _hash_of_input(name: str, path: str) -> str:
    try:
        return input_hash(epath.Path(path))
    except InputError as error:
        raise InputError(f"inputs.{name}: {error}") from error


def _places(spec: StageSpec) -> dict[str, str]:
    places = {**spec.inputs, **spec.files}
    return {name: str(absolute(epath.Path(path))) for name, path in places.items()}


def _read_json(path: epath.Path) -> dict[str, Any]:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise InputError(
            f"{path}: damaged ({error}); delete {path.parent} to run that stage again"
        ) from error


def _refuse_other(out: epath.Path, seen: Mapping[str, Any], wanted: Mapping[str, Any]) -> None:
    differences = [
        f"{key} was {seen_flat.get(key)!r}, now {wanted_flat.get(key)!r}"
        for seen_flat, wanted_flat in [(_flat(seen), _flat(wanted))]
        for key in sorted({*seen_flat, *wanted_flat})
        if seen_flat.get(key) != wanted_flat.get(key)
    ]
    if differences:
        raise InputError(
            f"{out} was made from another spec: {'; '.join(differences[:3])}"
            f"{' and more' if len(differences) > 3 else ''}. Use a new --workdir, or delete {out}"
        )


def _flat(value: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, item in value.items():
        if isinstance(item, Mapping):
            flat |= _flat(item, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = item
    return flat
