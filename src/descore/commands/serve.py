"""`descore serve`: score over HTTP."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from descore.commands.usage import UsageError
from descore.inputs.settings import Dtype, RewardSource
from descore.serving.options import Limits

if TYPE_CHECKING:
    from descore.serving.options import ServerOptions

EXAMPLES = """examples:
  descore serve --model runs/stage1
  descore serve --model small=runs/stage1 --model large=runs/stage2 --device cuda:0 --device cuda:1
  DESCORE_KEY=... descore serve --model runs/stage1 --host 0.0.0.0 --api-key-env DESCORE_KEY --allow-root /data/videos

POST /score takes a video and its prompt, POST /score/batch several; / is a page to try it, /openapi.json describes all.
SIGTERM or Ctrl-C stops the server: it finishes what it accepted, and answers 503 to what is new. The exit code is 0
after SIGTERM, 130 after Ctrl-C and 2 if it could not start.
"""

LIMITS = {
    "body_mb": "largest body of a request, and largest video from a path or a URL, in MiB",
    "held_mb": "most MiB that all requests in work hold together",
    "queue": "most videos that wait or are being scored; more are refused with 429",
    "items": "most videos of one request",
    "thoughts": "most thoughts per video",
    "prompt": "most characters of a prompt",
    "seconds": "longest video, in seconds",
    "frames": "most frames of a video",
    "request_seconds": "time in which a video must be scored, waiting included",
    "body_seconds": "time for a body to arrive, and a second more for each 64 KiB of it",
    "header_seconds": "time for the header of a request to arrive",
    "stall_seconds": "time without a word after which a worker that has work is replaced",
    "shutdown_seconds": "time in which a server that was asked to stop finishes what it accepted",
}


def add(commands: Any) -> None:
    """Add the command to the subparsers."""
    serve = commands.add_parser(
        "serve",
        help="score over HTTP",
        description="Score videos over HTTP: a server for training loops, and a page for people.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    _add_server_options(serve.add_argument)
    _add_scorer_options(serve.add_argument_group("scoring"))
    limits = serve.add_argument_group("limits")
    for name, text in LIMITS.items():
        usual = getattr(Limits, name)
        flag = f"--max-{name.replace('_', '-')}"
        limits.add_argument(flag, type=type(usual), default=usual, metavar="N", help=f"{text} (default {usual:g})")
    serve.set_defaults(run=_serve)


def _add_server_options(option: Any) -> None:
    option(
        "--model",
        action="append",
        required=True,
        metavar="[NAME=]FOLDER",
        help="exported folder of a training run, or a hub id; several have names, and the first is the one that is "
        "asked if a request names none",
    )
    option("--host", default="127.0.0.1", help="address to listen on (default 127.0.0.1: this machine alone)")
    option("--port", type=int, default=8000, help="port to listen on; 0 takes a free one (default 8000)")
    option("--api-key-env", metavar="NAME", help="environment variable with the key that requests must carry")
    option("--without-key", action="store_true", help="let other machines in without a key")
    option(
        "--allow-root",
        action="append",
        type=Path,
        default=[],
        metavar="DIR",
        help="folder under which requests may name videos by path (default: none)",
    )
    option(
        "--allow-host",
        action="append",
        default=[],
        metavar="HOST[:PORT]",
        help="host from which requests may name videos by URL (default: none)",
    )
    option("--frames-fps", type=float, metavar="FPS", help="frame rate of videos that come as frames without one")
    option("--pickle-bridge", choices=["flow_grpo"], help="answer pickles of plain values, from this machine only")


def _add_scorer_options(group: Any) -> None:
    option = group.add_argument
    option("--device", action="append", help="device of a worker, such as cpu or cuda:0; several for several workers")
    option("--no-thoughts", action="store_true", help="score without thinking: faster, but without an explanation")
    option("--dtype", choices=get_args(Dtype), help="precision of the backbone (default: bfloat16 on a GPU)")
    option("--max-batch-tokens", type=int, metavar="N", help="tokens scored together (default: what the memory is for)")
    option("--reward-from", choices=get_args(RewardSource), help="source of the reward (default: as trained)")
    option("--backbone", help="hub id or folder of an adapter's backbone, if it is not where the exported folder says")


def _serve(options: argparse.Namespace) -> int:
    try:
        from descore.serving.server import serve
    except ImportError as error:
        raise UsageError(f"{error}: the server needs more packages: pip install 'descore[serve]'") from error
    return serve(_server_options(options), lambda line: print(line, file=sys.stderr, flush=True))


def _server_options(options: argparse.Namespace) -> ServerOptions:
    from descore.serving.options import ServerOptions

    return ServerOptions(
        models=models_of(options.model),
        devices=tuple(options.device or [None]),
        host=options.host,
        port=options.port,
        api_key=_key(options.api_key_env),
        is_open=options.without_key,
        roots=tuple(options.allow_root),
        hosts=tuple(options.allow_host),
        frames_fps=options.frames_fps,
        pickle_bridge=options.pickle_bridge is not None,
        scorer={
            "thoughts": not options.no_thoughts,
            "dtype": options.dtype,
            "max_batch_tokens": options.max_batch_tokens,
            "reward_from": options.reward_from,
            "backbone": options.backbone,
        },
        limits=Limits(**{name: getattr(options, f"max_{name}") for name in LIMITS}),
    )


def models_of(given: list[str]) -> dict[str, str]:
    """Return the folder of each model by name; one without a name is called descore.

    Raises:
        UsageError: If a name is empty or given twice.

    >>> models_of(["runs/stage1", "large=runs/stage2"])
    {'descore': 'runs/stage1', 'large': 'runs/stage2'}
    """
    models: dict[str, str] = {}
    for text in given:
        name, _, folder = text.rpartition("=") if "=" in text else ("descore", "", text)
        if not name or not folder or name in models:
            raise UsageError(f"--model {text}: expected NAME=FOLDER, with another name for each model")
        models[name] = folder
    return models


def _key(variable: str | None) -> str | None:
    if variable is None:
        return None
    if not (key := os.environ.get(variable)):
        raise UsageError(f"--api-key-env {variable}: expected the key in that environment variable, it is not set")
    return key
