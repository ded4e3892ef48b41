"""vLLM's engine, turn by turn: jobs become its requests, one a sample, and its tokens become completions.

Stops are found here, on tokens (stopping.py): vLLM would cut the text and not the ids. It is told of the
tokens at which a sample ends whatever came before, and of the others' end by aborting them. Knows nothing
of threads or weights.
"""

from __future__ import annotations

import collections
import time

from transformers import PreTrainedTokenizerBase
from vllm import LLMEngine, RequestOutput, SamplingParams
from vllm.sampling_params import RequestOutputKind

from o1jax.engine.jobs import Job, Sample
from o1jax.engine.vllm_settings import sampling
from o1jax.records import InputError


class VllmScheduler:
    """Holds the samples in flight, by vLLM's request ids, and the counters. `table`: see token_bytes."""

    def __init__(self, engine: LLMEngine, tokenizer: PreTrainedTokenizerBase, table: list[bytes], slots: int):
        self.engine, self.tokenizer, self.table, self.slots = engine, tokenizer, table, slots
        self.version = 0
        self.counters: collections.Counter[str] = collections.Counter()
        self._samples: dict[str, Sample] = {}
        self._added = 0

    @property
    def idle(self) -> bool:
        return not self._samples

    def jobs(self) -> list[Job]:
        """Every request whose caller still waits, once."""
        return list(dict.fromkeys(sample.job for sample in self._samples.values()))

    def add(self, job: Job) -> None:
        """Hands the samples of a request to vLLM, which keeps a prefix that they share once."""
        prompt = {"prompt_token_ids": list(job.request.prompt_ids)}
        for index in range(job.request.n):
            self._added += 1
            try:
                params = SamplingParams(
                    **sampling(job, index), detokenize=False, output_kind=RequestOutputKind.DELTA
                )
                self.engine.add_request(str(self._added), prompt, params)
            except ValueError as error:  # what our checks let pass: this request's fault, nobody else's
                fail(job, InputError(f"vLLM refuses the request: {' '.join(str(error).split())}"))
                return
            self._samples[str(self._added)] = Sample(job, index)

    def step(self) -> None:
        """One turn: a token for every sample that runs."""
        begin = time.perf_counter()
        self._abort([key for key, sample in self._samples.items() if sample.job.result.done()])
        self.counters["turns"] += 1
        self.counters["slot_turns"] += min(len(self._samples), self.slots)
        for output in self.engine.step():
            self._take(output)
        self.counters["busy_s"] += time.perf_counter() - begin

    def _take(self, output: RequestOutput) -> None:
        """Gives a sample its new tokens, and its job the sample where they end it."""
        key, sample, (new,) = output.request_id, self._samples[output.request_id], output.outputs
        if not sample.token_ids:
            cached = output.num_cached_tokens or 0
            self.counters["reused_tokens"] += cached
            self.counters["prefill_tokens"] += len(sample.job.request.prompt_ids) - cached
        log_probs = [entry[token].logprob for token, entry in zip(new.token_ids, new.logprobs, strict=True)]
        reason = sample.extend(new.token_ids, log_probs, self.table)
        if reason is not None:
            self.counters["generated_tokens"] += len(sample.token_ids)
            sample.job.finish(sample.index, sample.completion(self.tokenizer, reason, self.version))
        elif output.finished:
            fail(sample.job, RuntimeError(f"vLLM ended a sample, {new.finish_reason}, where nothing ends it"))
        if output.finished:
            del self._samples[key]
        elif reason is not None:
            self._abort([key])

    def _abort(self, keys: list[str]) -> None:
        """Lets go of samples that vLLM still runs."""
        if keys:
            self.engine.abort_request(keys)
        for key in keys:
            del self._samples[key]


def fail(job: Job, error: Exception) -> None:
    """Tells the caller, if it still waits."""
    if not job.result.done() and job.result.set_running_or_notify_cancel():
        job.result.set_exception(error)
