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


COMMANDS = {
    "start": "start it, unless it runs, and make the buckets",
    "stop": "stop it; the data stay",
    "status": "show its URL; exit code 3 when it does not run",
    "env": "print the AWS variables for a shell, with the secret key",
}


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code."""
    log_to_stdout()
    parser = argparse.ArgumentParser(prog="python -m infra.local_s3", description="An S3 server on this machine.")
    commands = parser.add_subparsers(required=True, metavar="command", dest="command")
    for name, text in COMMANDS.items():
        command = commands.add_parser(name, help=text, description=text)
        command.add_argument("--dir", type=Path, default=default_folder(), help="its folder (default: %(default)s)")
        if name == "start":
            command.add_argument("--bucket", nargs="+", default=["irae"], help="buckets (default: irae)")
    options = parser.parse_args(arguments)
    try:
        return run(options.command, LocalS3(options.dir, getattr(options, "bucket", ())))
    except StorageError as error:
        print(error, file=sys.stderr)
        return 2


def run(command: str, server: LocalS3) -> int:
    """Run a command; returns the exit code."""
    if command == "start":
        server.start()
    pid = server.pid
    if pid is None:
        text = f"no local S3 server runs in {server.folder}"
        if command == "env":
            raise StorageError(f"{text}: {command_line('start', server.folder)}")
        logger.info(text if command == "stop" else f"{text}: {command_line('start', server.folder)}")
        return 0 if command == "stop" else 3
    if command == "stop":
        how = "has stopped" if server.stop() else f"did not stop within {STOP_TIMEOUT_S} s and was killed"
        logger.info(f"the local S3 server (process {pid}) {how}")
    elif command == "env":
        # These would override, or not fit, the variables below.
        print("unset AWS_PROFILE AWS_SESSION_TOKEN AWS_ENDPOINT_URL_S3 AWS_IGNORE_CONFIGURED_ENDPOINT_URLS")
        print("\n".join(f"export {name}={shlex.quote(value)}" for name, value in server.env().items()))
    else:
        logger.info(f"the local S3 server runs at {server.endpoint} (process {pid}), its data is in {server.folder}")
    if command == "start":
        logger.info(f'use it in this shell:  eval "$({command_line("env", server.folder)})"')
    return 0


if __name__ == "__main__":
    sys.exit(main())
