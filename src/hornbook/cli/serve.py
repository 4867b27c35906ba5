"""``hornbook serve``: OpenAI's and Ollama's API, collections of documents and a page, on this machine."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated

import typer

from hornbook.cli import console
from hornbook.errors import UsageError
from hornbook.settings import Settings


def serve(
    models: Annotated[
        list[Path] | None,
        typer.Argument(help="GGUF files or model folders to serve besides the store's.", show_default=False),
    ] = None,
    host: Annotated[
        str, typer.Option(help="The address to listen on; other than loopback only with a key.")
    ] = "127.0.0.1",
    port: Annotated[int | None, typer.Option(help="The port; 0 for any that is free. Default: 11500.")] = None,
    memory: Annotated[
        float | None, typer.Option(help="GB that loaded models may take together. Default: what is free.")
    ] = None,
    keep_alive: Annotated[
        float | None,
        typer.Option(help="Seconds that an unused model stays loaded; 0: it goes at once, -1: it stays. Default: 300."),
    ] = None,
    require_key: Annotated[bool, typer.Option("--require-key", help="Ask for a key on this machine too.")] = False,
    cors_origin: Annotated[
        list[str] | None,
        typer.Option(help="A page's origin that may use the API, https://example.org. May be repeated."),
    ] = None,
    allow_host: Annotated[
        list[str] | None,
        typer.Option(help="A further name that requests may call the server by, chat.example. May be repeated."),
    ] = None,
    rate: Annotated[
        float | None, typer.Option(help="Requests a second that a key, or an address, may make. Default: 300.")
    ] = None,
    max_body_mb: Annotated[float | None, typer.Option(help="MB that one request may have. Default: 16.")] = None,
    max_upload_mb: Annotated[
        float | None, typer.Option(help="MB that one upload of files may have. Default: 256.")
    ] = None,
    max_running: Annotated[
        int | None, typer.Option(help="Answers of one model that are written at once. Default: 64.")
    ] = None,
    timeout: Annotated[float | None, typer.Option(help="Seconds that one answer may take. Default: 600.")] = None,
    drain: Annotated[
        float | None, typer.Option(help="Seconds that running answers get when the server is stopped. Default: 30.")
    ] = None,
    log_prompts: Annotated[bool, typer.Option("--log-prompts", help="Write what people ask into the log.")] = False,
    open_page: Annotated[bool, typer.Option("--open", help="Open the page in a browser.")] = False,
    offline: Annotated[bool, typer.Option("--offline", help="Never open a socket to another machine.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the address as JSON.")] = False,
) -> None:
    """Serve language models, embeddings, collections and a page, until stopped (Ctrl-C)."""
    from hornbook.serve.options import Options
    from hornbook.serve.run import run

    options = Options.of(
        host=host,
        port=port,
        memory=None if memory is None else int(memory * 1e9),
        keep_alive=keep_alive,
        require_key=require_key,
        cors_origins=tuple(cors_origin or ()),
        allow_hosts=tuple(allow_host or ()),
        rate=rate,
        max_body_mb=max_body_mb,
        max_upload_mb=max_upload_mb,
        max_running=max_running,
        timeout_s=timeout,
        drain_s=drain,
        log_prompts=log_prompts,
    )
    paths = tuple(models or ())
    stems = [path.stem for path in paths]
    if len(set(stems)) < len(stems):
        raise UsageError(f"two of these would have the same name: {', '.join(stems)}", "Rename one of the files.")

    def ready(address: str) -> None:
        if as_json:
            import os

            print(json.dumps({"address": address, "pid": os.getpid()}), flush=True)
        else:
            print(f"Hornbook is at {address}", flush=True)
            if sys.stderr.isatty():
                console.say("  Ctrl-C lets running answers finish; a second time ends at once.")
        if open_page:
            import threading
            import webbrowser

            # some browsers return when they are closed
            here = address.replace("//0.0.0.0:", "//127.0.0.1:").replace("//[::]:", "//[::1]:")
            threading.Thread(target=webbrowser.open, args=(here,), daemon=True).start()

    run(options, Settings.load(offline=offline or None), ready, paths)
