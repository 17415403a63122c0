"""An S3 server on this machine: `python -m infra.local_s3 start`.

SeaweedFS, with its data, keys and log in one folder. It listens on 127.0.0.1 only, and answers only S3 requests signed
with the keys made at its first start. Its internal ports ask for no keys: other users of the same machine could reach
the data through them, so run it where you are the only one.
"""

from __future__ import annotations

import argparse
import logging
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from infra.local_s3.server import STOP_TIMEOUT_S, LocalS3, command_line, default_folder
from infra.logs import log_to_stdout
from infra.storage import StorageError

logger = logging.getLogger("infra.local_s3")


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code."""
    log_to_stdout()
    options = _parser().parse_args(arguments)
    server = LocalS3(options.dir, getattr(options, "bucket", ()))
    try:
        return int(options.run(server))
    except StorageError as error:
        print(error, file=sys.stderr)
        return 2


def _start(server: LocalS3) -> int:
    server.start()
    _status(server)
    logger.info(f'use it in this shell:  eval "$({command_line("env", server.folder)})"')
    return 0


def _stop(server: LocalS3) -> int:
    pid = server.pid
    if pid is None:
        logger.info(f"no local S3 server runs in {server.folder}")
    elif server.stop():
        logger.info(f"the local S3 server (process {pid}) has stopped")
    else:
        logger.info(f"the local S3 server (process {pid}) did not stop within {STOP_TIMEOUT_S} s and was killed")
    return 0


def _status(server: LocalS3) -> int:
    if not server.running:
        logger.info(f"no local S3 server runs in {server.folder}: {command_line('start', server.folder)}")
        return 3
    logger.info(f"the local S3 server runs at {server.endpoint} (process {server.pid}), its data is in {server.folder}")
    return 0


def _env(server: LocalS3) -> int:
    if not server.running:
        raise StorageError(f"no local S3 server runs in {server.folder}: {command_line('start', server.folder)}")
    # These would override, or not fit, the variables below.
    print("unset AWS_PROFILE AWS_SESSION_TOKEN AWS_ENDPOINT_URL_S3 AWS_IGNORE_CONFIGURED_ENDPOINT_URLS")
    for name, value in server.env().items():
        print(f"export {name}={shlex.quote(value)}")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m infra.local_s3", description="An S3 server on this machine.")
    commands = parser.add_subparsers(required=True, metavar="command")
    for name, run, text in (
        ("start", _start, "start it, unless it runs, and make the buckets"),
        ("stop", _stop, "stop it; the data stay"),
        ("status", _status, "show its URL; exit code 3 when it does not run"),
        ("env", _env, "print the AWS variables for a shell, with the secret key"),
    ):
        command = commands.add_parser(name, help=text, description=text)
        command.set_defaults(run=run)
        command.add_argument("--dir", type=Path, default=default_folder(), help="its folder (default: %(default)s)")
        if name == "start":
            command.add_argument("--bucket", nargs="+", default=["irae"], help="buckets (default: irae)")
    return parser


if __name__ == "__main__":
    sys.exit(main())
