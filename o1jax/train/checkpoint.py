"""Checkpoints on disk: a trainer's numbered ones, and the policy directory that other stages read.

The only file that knows Orbax. A checkpoint counts once Orbax has committed it; its checksums (integrity.py)
are made later, behind the caller's back, and checked where they are there. It is restored against an abstract
tree, so onto any mesh. Does not decide when to save; that is resumable.py.

A policy directory holds checkpoint/ (params, and meta with the model config) and tokenizer/.
"""

from __future__ import annotations

import dataclasses
import tempfile
import threading
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import Any, NamedTuple

import jax
import transformers
from etils import epath
from flax import nnx
from jax.sharding import Mesh
from orbax import checkpoint as ocp

from o1jax.buckets import absolute, copy_files, is_bucket, scheme
from o1jax.model.config import ModelConfig
from o1jax.model.hf import checkpoint as hf
from o1jax.model.init import NO_PARAMS, abstract_params
from o1jax.parallel.memory import check_fits
from o1jax.parallel.processes import barrier, is_leader, reporting_slow
from o1jax.prompts.chat import load_tokenizer, save_tokenizer, size
from o1jax.prompts.ends import token_ids
from o1jax.records import InputError
from o1jax.train import integrity
from o1jax.train.mirror import Mirror


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


class Finishing(NamedTuple):
    """A checkpoint that is written, and what is done with it then: it gets checksums, and a mirrored one is
    copied to its bucket."""

    step: int
    done: Future[None]
    stop: threading.Event


class Checkpoints:
    """The numbered checkpoints of one directory, written behind the caller's back. Items are pytrees of
    arrays by name, each of which can be restored alone; meta is JSON. A context manager: leaving it waits
    until the last one is complete and has its checksums; after an exception, as Preempted, not for these."""

    def __init__(self, directory: epath.PathLike):
        self.directory = absolute(epath.Path(directory))
        self._mirror = Mirror(self.directory) if scheme(self.directory) not in ("", "gs") else None
        self._manager = ocp.CheckpointManager(self._mirror.here if self._mirror else self.directory)
        self.pending = False  # the latest is not complete yet
        self._keep: tuple[int, ...] | None = None  # what to keep beside the latest, once one was saved
        self.latest: int | None = None  # complete, or begun here
        self.latest = max(self.steps(), default=None)
        self._finisher = ThreadPoolExecutor(1)
        self._finishing: Finishing | None = None  # the last one that was begun, here
        self._checked: set[int] = set()  # found undamaged, which takes reading every byte

    def __enter__(self) -> Checkpoints:
        return self

    def __exit__(self, kind: type[BaseException] | None, *exception: object) -> None:
        try:
            if kind is None:
                self.wait()
                self._finish()
        finally:
            self._stop_finishing()
            self._finisher.shutdown()
            self._manager.close()
            if self._mirror is not None:
                self._mirror.close()

    def steps(self) -> list[int]:
        """The complete checkpoints, oldest first."""
        if self._mirror is not None:
            return self._mirror.steps()
        # Orbax counts a step from when its save begins.
        return sorted(s for s in self._manager.all_steps() if s != self.latest or not self.pending)

    def save(
        self, step: int, items: Mapping[str, Any], meta: Mapping[str, Any], keep: tuple[int, ...] = ()
    ) -> None:
        """Begins to save `step`, once the one before is complete. That one stays, with those that it was to
        `keep`; older ones go. The items' buffers may be donated as soon as this returns. InputError if there
        is no room."""
        self.wait()
        for old in set(self.steps()) - {self.latest} if self._keep is not None else ():
            if old not in self._keep:
                self._delete(old)
        if scheme(self.directory) == "gs" and is_leader() and self._path(step).exists():
            self._path(step).rmtree(missing_ok=True)  # left half-written: in a bucket it has its name at once
        saved = {name: ocp.args.StandardSave(item) for name, item in items.items()}
        shapes = {name: shapes_of(item) for name, item in items.items()}
        described = ocp.args.JsonSave({"meta": dict(meta), "shapes": shapes})
        try:
            self._manager.save(step, args=ocp.args.Composite(**saved, described=described), force=True)
        except (OSError, ValueError) as error:  # the second by tensorstore, of the same disk
            raise self._not_written(error) from error
        self.latest, self.pending, self._keep = step, True, keep

    def settle(self) -> None:
        """Begins to finish the latest checkpoint if it is written by now and none is being finished; never
        waits."""
        is_busy = self._finishing is not None and not self._finishing.done.done()
        is_begun = self._finishing is not None and self._finishing.step == self.latest
        if self._keep is None or self._manager.is_saving_in_progress():  # the first: nothing was saved here
            return
        if not is_busy and not is_begun and self._path(self.latest).exists():
            stop = threading.Event()
            done = self._finisher.submit(self._finish_step, self.latest, stop)
            self._finishing = Finishing(self.latest, done, stop)
        self.pending = self.pending and self._mirror is not None and (is_busy or not is_begun)

    def _finish_step(self, step: int, stop: threading.Event) -> None:
        integrity.seal(self._path(step), stop)
        if self._mirror is not None:
            self._mirror.send(step)

    def wait(self) -> None:
        """Returns when the checkpoint under way is complete; InputError if it could not be written."""
        try:
            self._manager.wait_until_finished()
            if self._mirror is not None and self.pending:
                self._finish()
        except (OSError, ValueError) as error:
            self._manager.reload()  # it counts the step that failed
            raise self._not_written(error) from error
        finally:
            self.pending = False

    def _finish(self) -> None:
        """Returns when the latest is finished; InputError if that could not be written."""
        try:
            for _ in range(2):  # an earlier one, then it
                self.settle()
                if self._finishing is not None:
                    self._finishing.done.result()
        except OSError as error:
            raise self._not_written(error) from error

    def _stop_finishing(self) -> None:
        if self._finishing is not None:
            self._finishing.stop.set()
            wait([self._finishing.done])

    def _delete(self, step: int) -> None:
        if self._finishing is not None and self._finishing.step == step:
            self._stop_finishing()
        if self._mirror is not None:
            self._mirror.delete(step)
        if scheme(self.directory) == "gs":  # Orbax would ask for the right to see the bucket's own settings
            if is_leader():
                self._path(step).rmtree()
            barrier(f"deleted {self._path(step)}")
            self._manager.reload()
        elif step in self._manager.all_steps():
            self._manager.delete(step)

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
        return dict(self._read(step, wanted).items())

    def _described(self, step: int) -> dict[str, Any]:
        if step not in self._checked:
            if self._mirror is not None:
                self._mirror.fetch(step)
                self._manager.reload()
            integrity.check_sealed(self._path(step))
            self._checked.add(step)
        return self._read(step, {"described": ocp.args.JsonRestore()})["described"]

    def _read(self, step: int, wanted: Mapping[str, Any]) -> ocp.args.Composite:
        try:
            return self._manager.restore(step, args=ocp.args.Composite(**wanted))
        except (OSError, ValueError, KeyError) as error:  # damage before there were checksums
            reason = f"{type(error).__name__}: {' '.join(str(error).split())}"[:200]
            raise integrity.damaged(self._path(step), reason) from error

    def _path(self, step: int) -> epath.Path:
        """Where Orbax has it."""
        return (self._mirror.here if self._mirror is not None else self.directory) / str(step)

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
    barrier(f"saved_policy {directory}")  # each process seals its own files


def export_policy(
    directory: epath.PathLike,
    config: ModelConfig,
    params: nnx.State,
    tokenizer: transformers.PreTrainedTokenizerFast,
) -> None:
    """Writes a Hugging Face directory, weights and tokenizer, for transformers and vLLM to load."""
    if is_bucket(directory):
        with tempfile.TemporaryDirectory() as here:
            export_policy(here, config, params, tokenizer)
            copy_files(epath.Path(here), epath.Path(directory))
        return
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
