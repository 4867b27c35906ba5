"""llama.cpp's own HTTP server, as the xllamacpp wheel has it: prints its address, and serves until its input ends.

python benchmarks/peers/xllamacpp_server.py MODEL.gguf THREADS SLOTS CONTEXT
"""

from __future__ import annotations

import json
import socket
import sys
from importlib.metadata import version

import xllamacpp


def main() -> None:
    path, threads, slots, context = sys.argv[1], *map(int, sys.argv[2:5])
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    params = xllamacpp.CommonParams()
    params.model.path = path
    params.n_parallel, params.n_ctx, params.port = slots, slots * context, port
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = threads
    params.n_gpu_layers, params.verbosity = 0, -1
    server = xllamacpp.Server(params)
    print(json.dumps({"address": server.listening_address, "version": f"xllamacpp {version('xllamacpp')}"}), flush=True)
    sys.stdin.read()
    del server


if __name__ == "__main__":
    main()
