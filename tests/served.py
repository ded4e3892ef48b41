"""Real vLLM servers and engines for tests. Imported only where vLLM is installed."""

import contextlib
import socket
import time
import urllib.error
import urllib.request

from o1jax.engine.vllm_engine.processes import Server, ServerSettings
from o1jax.engine.vllm_engine.settings import arguments
from o1jax.model.hf.names import untied
from o1jax.train.checkpoint import export_policy


def free_ports(count):
    """The first of `count` adjacent ports that nobody uses."""
    for first in range(18_000, 28_000, 16):
        with contextlib.ExitStack() as stack:
            try:
                for port in range(first, first + count):
                    stack.enter_context(socket.socket()).bind(("127.0.0.1", port))
            except OSError:
                continue
        return first
    raise RuntimeError("no free ports")


@contextlib.contextmanager
def servers(directory, count, config, params, tokenizer, *, slots, context):
    """`count` servers of these weights that answer; ends them."""
    export_policy(directory / "model", *untied(config, params), tokenizer)
    chosen = arguments(config, slots=slots, context=context, dtype="float32", cpu=True)
    settings = ServerSettings(chosen, cpu=True, port=free_ports(count))
    started = []
    try:
        for index in range(count):
            log = directory / f"server_{index}.log"
            started.append(Server(str(directory / "model"), index, settings, log))
        for server in started:
            answers(server.url)
        yield started
    finally:
        for server in started:
            server.end()


def answers(url, seconds=300):
    """Returns when the server there answers."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        try:
            with urllib.request.urlopen(url + "/health", timeout=5):
                return
        except (urllib.error.URLError, OSError):
            time.sleep(0.5)
    raise TimeoutError(f"{url} does not answer")
