"""Checkpoints on disk: a trainer's numbered ones, and the policy directory that other stages read.

The only file that knows Orbax. A checkpoint counts once it is sealed (integrity.py), and is restored
against an abstract tree, so onto any mesh. Does not decide when to save; that is resumable.py.

A policy directory holds checkpoint/ (params, and meta with the model config) and tokenizer/.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import jax
import transformers
from etils import epath
from flax import nnx
from jax.sharding import Mesh
from orbax import checkpoint as ocp

from o1jax.model.config import ModelConfig
from o1jax.model.hf import checkpoint as hf
from o1jax.model.init import NO_PARAMS, abstract_params
from o1jax.parallel.memory import check_fits
from o1jax.parallel.processes import barrier, is_leader, reporting_slow
from o1jax.prompts.chat import load_tokenizer, save_tokenizer, size
from o1jax.prompts.ends import token_ids
from o1jax.records import InputError
from o1jax.train import integrity


@dataclasses.dataclass(frozen=True)
class Policy:
    """A model that can be trained on or sampled from, with its tokenizer."""

    config: ModelConfig
    graphdef: nnx.GraphDef
    params: nnx.State  # those that are trained: all, or where it has adapters these alone
    tokenizer: transformers.PreTrainedTokenizerFast
    frozen: nnx.State = dataclasses.field(default_factory=lambda: NO_PARAMS)  # all other parameters

    @property
    def all_params(self) -> nnx.State:
        """Trained and frozen ones together, as the graphdef's model has them."""
        return nnx.merge_state(self.params, self.frozen)


class Checkpoints:
    """The numbered checkpoints of one directory, written and sealed behind the caller's back. Items are
    pytrees of arrays by name, each of which can be restored alone; meta is JSON. A context manager: leaving
    it waits until the last one is complete."""

    def __init__(self, directory: epath.PathLike):
        self.directory = epath.Path(directory).absolute()
        self._manager = ocp.CheckpointManager(self.directory)
        self.latest: int | None = max(self.steps(), default=None)  # complete, or begun here
        self.pending = False  # the latest is being written or sealed
        self._sealer = ThreadPoolExecutor(1)
        self._seal: Future[None] | None = None  # of the pending one, once it is written
        self._checked: set[int] = set()  # found undamaged, which takes reading every byte
        self._keep: tuple[int, ...] | None = None  # what to keep beside the latest, once one was saved

    def __enter__(self) -> Checkpoints:
        return self

    def __exit__(self, *exception: object) -> None:
        self.wait()
        self._sealer.shutdown()
        self._manager.close()

    def steps(self) -> list[int]:
        """The complete checkpoints, oldest first."""
        return [s for s in sorted(self._manager.all_steps()) if integrity.is_sealed(self._path(s))]

    def save(
        self, step: int, items: Mapping[str, Any], meta: Mapping[str, Any], keep: tuple[int, ...] = ()
    ) -> None:
        """Begins to save `step`, once the one before is complete. That one stays, with those that it was to
        `keep`; older ones go. The items' buffers may be donated as soon as this returns. InputError if there
        is no room."""
        self.wait()
        for old in set(self._manager.all_steps()) - {self.latest}:
            goes = self._keep is not None and old not in self._keep
            if goes or not integrity.is_sealed(self._path(old)):  # a killed process leaves it unsealed
                self._manager.delete(old)
        saved = {name: ocp.args.StandardSave(item) for name, item in items.items()}
        shapes = {name: shapes_of(item) for name, item in items.items()}
        described = ocp.args.JsonSave({"meta": dict(meta), "shapes": shapes})
        try:
            self._manager.save(step, args=ocp.args.Composite(**saved, described=described), force=True)
        except (OSError, ValueError) as error:  # the second by tensorstore, of the same disk
            raise self._not_written(error) from error
        self.latest, self.pending, self._keep = step, True, keep

    def settle(self) -> None:
        """Begins to seal the checkpoint under way if it is written by now; never waits."""
        if not self.pending or self._manager.is_saving_in_progress():
            return
        if self._seal is None and is_leader() and self._path(self.latest).exists():
            self._seal = self._sealer.submit(integrity.seal, self._path(self.latest))
        self.pending = self._seal is not None and not self._seal.done()

    def wait(self) -> None:
        """Returns when the checkpoint under way is complete; InputError if it could not be written."""
        try:
            self._manager.wait_until_finished()
            self.settle()
            if self._seal is not None:
                self._seal.result()
        except (OSError, ValueError) as error:
            raise self._not_written(error) from error
        finally:
            self.pending, self._seal = False, None

    def meta(self, step: int) -> dict[str, Any]:
        """The meta of a checkpoint; InputError if the checkpoint is damaged."""
        return self._described(step)["meta"]

    def restore(self, step: int, like: Mapping[str, Any]) -> dict[str, Any]:
        """The items named in `like`, onto its ShapeDtypeStructs' shardings and cast to their dtypes.
        InputError if the checkpoint is damaged or of other shapes."""
        shapes = self._described(step)["shapes"]
        for name, item in like.items():
            if difference := first_difference(shapes.get(name, {}), shapes_of(item)):
                raise InputError(
                    f"{self._path(step)} does not fit: {name}{difference}; "
                    "use the settings it was made with, or another directory"
                )
        wanted = {name: ocp.args.StandardRestore(item) for name, item in like.items()}
        return dict(self._manager.restore(step, args=ocp.args.Composite(**wanted)).items())

    def _described(self, step: int) -> dict[str, Any]:
        if step not in self._checked:
            integrity.check_sealed(self._path(step))
            self._checked.add(step)
        wanted = ocp.args.Composite(described=ocp.args.JsonRestore())
        return self._manager.restore(step, args=wanted)["described"]

    def _path(self, step: int) -> epath.Path:
        return self.directory / str(step)

    def _not_written(self, error: Exception) -> InputError:
        first_line = f"{type(error).__name__}: {' '.join(str(error).split())}"[:200]
        return InputError(
            f"cannot write a checkpoint into {self.directory} ({first_line}); "
            "earlier ones are whole: make room there and run again"
        )


def shapes_of(tree: Any) -> dict[str, list[int]]:
    """The shape of every leaf, by its path."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {jax.tree_util.keystr(path): list(leaf.shape) for path, leaf in leaves}


def first_difference(saved: Mapping[str, list[int]], wanted: Mapping[str, list[int]]) -> str:
    """Where two shapes_of differ, in words; empty if they are equal."""
    for path in sorted(saved.keys() | wanted.keys()):
        if saved.get(path) != wanted.get(path):
            return f"{path} is {saved.get(path, 'absent')}, wanted {wanted.get(path, 'absent')}"
    return ""


def save_policy(
    directory: epath.PathLike,
    config: ModelConfig,
    params: nnx.State,
    tokenizer: transformers.PreTrainedTokenizerFast,
) -> None:
    """Writes a policy directory, in place of what was there; its checkpoint comes last. All processes that
    train call it."""
    directory = epath.Path(directory)
    if is_leader():
        if (directory / "checkpoint").exists():
            (directory / "checkpoint").rmtree()
        directory.mkdir(parents=True, exist_ok=True)
        save_tokenizer(str(directory / "tokenizer"), tokenizer)
    barrier(f"save_policy {directory}")
    with Checkpoints(directory / "checkpoint") as checkpoints:
        checkpoints.save(0, {"params": params}, {"config": config.to_json()})
    barrier(f"saved_policy {directory}")  # the first process seals


def export_policy(
    directory: epath.PathLike,
    config: ModelConfig,
    params: nnx.State,
    tokenizer: transformers.PreTrainedTokenizerFast,
) -> None:
    """Writes a Hugging Face directory, weights and tokenizer, for transformers and vLLM to load."""
    save_tokenizer(directory, tokenizer, config.family)
    hf.export(directory, config, params, token_ids(tokenizer))  # last: without config.json it is half-written


def load_policy(directory: epath.PathLike, mesh: Mesh, dtype: str = "") -> Policy:
    """The policy of a directory, its parameters on the mesh, in `dtype` (ModelConfig.kept_in). InputError if
    it is missing or damaged, or larger than the memory."""
    directory = epath.Path(directory)
    if not (directory / "checkpoint").exists():
        raise InputError(
            f"{directory} is not a policy directory: it has no checkpoint/; give one that a stage wrote"
        )
    with Checkpoints(directory / "checkpoint") as checkpoints:
        if 0 not in checkpoints.steps():
            raise InputError(
                f"the policy in {directory} was never completed; delete it and run its stage again"
            )
        tokenizer = load_tokenizer(str(directory / "tokenizer"))
        config = ModelConfig.from_json(checkpoints.meta(0)["config"]).kept_in(dtype)
        config = config.with_tokens(size(tokenizer))
        graphdef, like = abstract_params(config, mesh)
        check_fits(directory, like)
        n_bytes = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(like))
        with reporting_slow(f"loaded {directory}, {n_bytes / 1e6:,.0f} MB,", says=is_leader()):
            params = checkpoints.restore(0, {"params": like})["params"]
    return Policy(config, graphdef, params, tokenizer)
