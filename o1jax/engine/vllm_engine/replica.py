"""One vLLM server over HTTP: what it is asked, and whether its answers can be believed.

Speaks vLLM's token API (/inference/v1/generate) and, for weights, the routes that it serves under
VLLM_SERVER_DEV_MODE=1. Decides neither which server is asked nor what happens after a fault.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
from collections.abc import Callable, Coroutine, Mapping
from typing import Any, TypeVar

import httpx2
from etils import epath

from o1jax.engine.jobs import Job
from o1jax.engine.vllm_engine.settings import sampling
from o1jax.records import InputError

T = TypeVar("T")
INCOMPLETE = "incomplete"  # the label of weights that are being replaced
OUR_FAULT = (400, 401, 403, 404, 405, 422)  # statuses that would be the same on any other server


class ReplicaFault(Exception):
    """This server did not answer as it should; another may."""


class OtherWeights(ReplicaFault):
    """A completion was sampled by weights that were not asked for."""


@dataclasses.dataclass(frozen=True)
class Push:
    """New weights."""

    directory: epath.Path  # their checkpoint, on a path that the servers see
    label: str  # their name, never twice the same: a version number is another run's too
    version: int  # policy_version of what they sample


@dataclasses.dataclass(frozen=True)
class Answer:
    """One sample as a server gave it, up to the token at which it stopped."""

    token_ids: tuple[int, ...]
    log_probs: tuple[float, ...]
    cached_tokens: int  # of the prompt


class Replica:
    """A server, asked for `at_once` samples at a time. `label` is that of its weights when last asked;
    `fault` says why it is not used, and `missed` is the label of the last push that it could not take."""

    def __init__(self, url: str, client: httpx2.AsyncClient, answer_s: float, work_s: float, at_once: int):
        self.url = url.rstrip("/")
        self.label, self.missed, self.fault = "", "", "not asked yet"
        self.root: epath.Path | None = None  # the directory of its model, once it was there
        self.strikes, self.rests_until = 0, 0.0
        self._client, self._answer_s, self._work_s = client, answer_s, work_s
        self._death, self._due = asyncio.Event(), asyncio.Event()
        self._room = asyncio.Semaphore(at_once)  # else look() queues for a connection, behind samples

    @property
    def usable(self) -> bool:
        return not self.fault

    def admit(self) -> None:
        """It may be asked for samples."""
        self.fault = ""
        self._death.clear()

    def suspect(self, fault: str) -> None:
        """It may not until it was looked at, which is due now; what it was asked goes on."""
        self.fault = fault
        self._due.set()

    def dismiss(self, fault: str) -> None:
        """It may not, and what it was asked ends with this fault."""
        self.fault = fault
        self._death.set()

    async def due(self, seconds: float) -> None:
        """Returns when it is suspected, or after so many seconds."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):  # wait_for may lose a cancellation
                await self._due.wait()
        self._due.clear()

    async def look(self) -> None:
        """Asks whether it lives and which weights it has; answers within answer_s seconds, or a fault."""
        await self._call("GET", "/health", self._answer_s)
        info = await self._call("GET", "/weight_info", self._answer_s)
        self.label = read(info, lambda body: str(body["weight_version"]))

    async def served(self) -> tuple[epath.Path, int]:
        """(directory of the model, tokens that its context holds)."""
        listed = await self._call("GET", "/v1/models", self._answer_s)
        model = read(listed, lambda body: (body["data"][0]["root"], body["data"][0]["max_model_len"]))
        return epath.Path(model[0]), model[1]

    async def push(self, push: Push) -> None:
        """Waits for what runs, replaces the weights, and goes on. A push that breaks off leaves weights
        that say so (INCOMPLETE), which the next push replaces."""
        # "wait": what runs ends under the old weights. Without a pause it would go on under the new ones,
        # with the old ones' keys and values.
        await self._call("POST", "/pause", self._work_s, params={"mode": "wait"})
        await self._label(INCOMPLETE)
        reload = {"method": "reload_weights", "kwargs": {"weights_path": str(push.directory)}}
        await self._call("POST", "/collective_rpc", self._work_s, body=reload)
        # Reloading leaves the prefix cache as it was: keys of the old weights gave answers that were wrong.
        forgot = await self._call("POST", "/reset_prefix_cache", self._answer_s)
        if not read(forgot, lambda body: body["success"]):
            raise ReplicaFault(f"{self.url}: did not forget what it had cached of the old weights")
        await self._call("POST", "/resume", self._answer_s)
        await self._label(push.label)  # last: who has this label is not paused
        self.label = push.label

    async def sample(self, job: Job, index: int, label: str) -> Answer:
        """Sample `index` of the job; ReplicaFault also when the server dies meanwhile."""
        request = job.request
        params = sampling(job, index) | {
            "stop": request.stop,
            "detokenize": bool(request.stop),
            "skip_special_tokens": False,  # a stop string may be one
        }
        # Stop strings only save work: vLLM cuts text there and not ids, and Sample.extend decides.
        body = {"token_ids": request.prompt_ids, "sampling_params": params}
        response = await self._while_alive(self._generate(body))
        return read(response, lambda body: self._answer(body, label))

    async def _generate(self, body: Any) -> httpx2.Response:
        async with self._room:
            return await self._call("POST", "/inference/v1/generate", self._work_s, body=body)

    async def _while_alive(self, work: Coroutine[Any, Any, T]) -> T:
        # A server that hangs holds the connection open: work_s is minutes, a look at it fails after answer_s.
        task, death = asyncio.ensure_future(work), asyncio.ensure_future(self._death.wait())
        try:
            await asyncio.wait([task, death], return_when=asyncio.FIRST_COMPLETED)
            if not task.done():
                raise ReplicaFault(f"{self.url}: {self.fault}")
            return task.result()
        finally:
            task.cancel()
            death.cancel()

    def _answer(self, answer: Mapping[str, Any], label: str) -> Answer:
        if len(answer["choices"]) != 1:
            raise ReplicaFault(f"{self.url}: {len(answer['choices'])} samples, wanted 1")
        (choice,) = answer["choices"]
        # A sample whose weights were replaced meanwhile, or of a server that was restarted, names them.
        seen = {span["version"] for span in choice["weight_versions"] or ()}
        if seen != {label}:
            raise OtherWeights(f"{self.url}: sampled with weights {sorted(seen)}, wanted {label}")
        log_probs = tuple(entry["logprob"] for entry in choice["logprobs"]["content"])
        if not len(choice["token_ids"]) == len(log_probs) > 0:
            seen = f"{len(choice['token_ids'])} tokens and {len(log_probs)} log-probs"
            raise ReplicaFault(f"{self.url}: {seen}, wanted as many of both")
        details = (answer.get("usage") or {}).get("prompt_tokens_details") or {}
        return Answer(tuple(choice["token_ids"]), log_probs, details.get("cached_tokens") or 0)

    async def _label(self, label: str) -> None:
        await self._call("POST", "/update_weight_version", self._answer_s, body={"new_version": label})

    async def _call(
        self, method: str, path: str, timeout_s: float, body: Any = None, params: Any = None
    ) -> httpx2.Response:
        try:
            response = await self._client.request(
                method, self.url + path, json=body, params=params, timeout=timeout_s
            )
        except httpx2.HTTPError as error:
            raise ReplicaFault(f"{self.url}{path}: {type(error).__name__} {error}".rstrip()) from error
        if response.status_code in OUR_FAULT:
            said = " ".join(response.text.split())[:200]
            raise InputError(
                f"{self.url}{path}: status {response.status_code}, {said}; "
                "wanted a vLLM server that launch/serve.py started (or its flags, and VLLM_SERVER_DEV_MODE=1)"
            )
        if response.status_code != 200:
            raise ReplicaFault(f"{self.url}{path}: status {response.status_code}")
        return response


def read(response: httpx2.Response, field: Callable[[Any], T]) -> T:
    """`field` of what the response holds; ReplicaFault where it is not there."""
    try:
        return field(response.json())
    except (ValueError, KeyError, TypeError, IndexError) as error:
        said = " ".join(response.text.split())[:80]
        raise ReplicaFault(f"{response.url}: not the answer that was asked for: {said!r}") from error
