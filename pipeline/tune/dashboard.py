"""Optuna's dashboard on the live journal of a search."""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from socketserver import ThreadingMixIn
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

import optuna_dashboard

from infra.storage import StorageError, UserError
from pipeline.tune.config import DashboardConfig
from pipeline.tune.folder import REPORT, StudyFolder, find_search
from pipeline.tune.space import TRIALS

logger = logging.getLogger(__name__)

LOOPBACK = "127.0.0.1"
DOWNLOAD_INTERVAL_S = 3.0
"""Time between two downloads of a journal that is written on another machine."""


class ThreadingServer(ThreadingMixIn, WSGIServer):
    """One thread per connection. `optuna_dashboard.run_server` has one for all, which a browser's idle connection
    blocks."""

    daemon_threads = True


class QuietHandler(WSGIRequestHandler):
    """No line per request."""

    def log_message(self, *_: object) -> None:
        pass


def serve(config: DashboardConfig) -> None:
    """Serve until interrupted. Raises UserError when there is no such search, or the port is not free."""
    folder, port = find_search(config.search), config.port
    folder.study()  # raises before the first trial
    application = optuna_dashboard.wsgi(folder.storage())
    try:
        server = make_server(LOOPBACK, port, application, ThreadingServer, QuietHandler)
    except (OSError, OverflowError) as error:
        raise UserError(f"port {port} cannot be opened ({error}); choose another --port.") from None
    if folder.is_remote:
        threading.Thread(target=follow, args=(folder,), daemon=True).start()
    logger.info(f"dashboard    http://{LOOPBACK}:{port}/dashboard/studies/0  (Ctrl-C stops it)")
    logger.info(f"             from another machine: ssh -L {port}:{LOOPBACK}:{port} MACHINE, then the same address")
    logger.info(f"plots        {folder.store.url}/{REPORT}, written by `python -m pipeline.tune best`")
    logger.info(f"TensorBoard  tensorboard --logdir {folder.store.url}/{TRIALS}")
    with server:
        server.serve_forever()


def follow(folder: StudyFolder) -> None:
    """Keep the local copy of a remote journal up to date."""
    while True:
        time.sleep(DOWNLOAD_INTERVAL_S)
        with contextlib.suppress(StorageError):  # a store that is away for a while
            folder.download()
