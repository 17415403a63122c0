"""The page that shows a search: Optuna's dashboard on the live journal, below a line of links."""

from __future__ import annotations

import contextlib
import hmac
import html
import ipaddress
import logging
import os
import secrets
import shutil
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from http.cookies import SimpleCookie
from socketserver import ThreadingMixIn
from typing import Any
from urllib.parse import parse_qs
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

from infra.storage import UserError
from pipeline.tune.config import DashboardConfig
from pipeline.tune.folder import Home, find_search
from pipeline.tune.plots import REPORT
from pipeline.tune.space import TRIALS

logger = logging.getLogger(__name__)

FETCH_S = 3.0
"""A journal that is written on another machine is looked at so often."""
PORTS_TRIED = 50
TOKEN = "token"
PAGE = """<!doctype html><html lang="en"><meta charset="utf-8"><title>{title}</title>
<style>body{{margin:0;height:100vh;display:flex;flex-direction:column;font:15px system-ui,sans-serif}}
nav{{padding:.6em 1em;background:#222;color:#eee}}nav a{{color:#9cf;margin-left:1.5em}}iframe{{flex:1;border:0}}</style>
<nav>{title}{links}</nav><iframe src="/dashboard/studies/0" title="trials and plots"></iframe></html>
"""
Respond = Callable[..., Any]


def serve(config: DashboardConfig) -> None:
    """Serve until interrupted. ValueError when there is no such search, or no port is free."""
    home = find_search(config.search)
    home.study()  # says so when there is no trial yet
    token = None if is_loopback(config.host) else secrets.token_urlsafe(24)
    ended = threading.Event()
    with contextlib.ExitStack() as stack:
        stack.callback(ended.set)
        if home.is_mirrored:
            threading.Thread(target=follow, args=(home, ended), daemon=True).start()
        links = {"Plots": "/report"}
        if url := ray_dashboard():
            links["Ray"] = url
        if config.tensorboard and (url := stack.enter_context(tensorboard(home, config))):
            links["TensorBoard"] = url
        server = stack.enter_context(open_server(config, Page(home, links, token)))
        address = f"http://{config.host}:{server.server_port}/"
        if server.server_port != config.port:
            logger.info(f"port {config.port} is in use; took the next free one.")
        if token:
            logger.info(
                f"warning: everybody who reaches {config.host} and knows this address sees the search; the "
                "connection is not encrypted."
            )
            address += f"?{TOKEN}={token}"
        for name, url in links.items():
            logger.info(f"{name:12}{url if '://' in url else address.partition('?')[0].rstrip('/') + url}")
        logger.info(f"{'dashboard':12}{address}  (Ctrl-C ends it)")
        server.serve_forever()


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach the address."""
    try:
        return all(ipaddress.ip_address(found[4][0]).is_loopback for found in socket.getaddrinfo(host, None))
    except OSError:
        raise UserError(f"--host {host} is no address of this machine; 127.0.0.1 is for this machine alone.") from None


class Page:
    """The WSGI application: the page, the plots, Optuna's dashboard below it; all of it behind the token, if any."""

    def __init__(self, home: Home, links: dict[str, str], token: str | None) -> None:
        from optuna_dashboard import wsgi

        self.home, self.links, self.token = home, links, token
        self.dashboard = wsgi(home.storage())

    def __call__(self, environ: dict[str, Any], respond: Respond) -> Any:
        if self.token and not self._is_known(environ):
            return answer(respond, "401 Unauthorized", "Open the address with the token that the command printed.")
        headers = []
        if self.token:
            headers = [("Set-Cookie", f"{TOKEN}={self.token}; HttpOnly; SameSite=Strict; Path=/")]
        if environ["PATH_INFO"] == "/":
            return answer(respond, "200 OK", self._page(), headers)
        if environ["PATH_INFO"] == "/report":
            return answer(respond, "200 OK", self._report())
        return self.dashboard(environ, respond)

    def _is_known(self, environ: dict[str, Any]) -> bool:
        given = parse_qs(environ.get("QUERY_STRING", "")).get(TOKEN, [])
        cookie = SimpleCookie(environ.get("HTTP_COOKIE", "")).get(TOKEN)
        given += [cookie.value] if cookie else []
        return any(hmac.compare_digest(text.encode(), (self.token or "").encode()) for text in given)

    def _page(self) -> str:
        links = "".join(f'<a href="{html.escape(u)}" target="_blank">{n}</a>' for n, u in self.links.items())
        return PAGE.format(title=f"Search {html.escape(self.home.store.url)}", links=links)

    def _report(self) -> str:
        try:
            return self.home.store.get(REPORT).decode()
        except FileNotFoundError:
            return (
                "There are no plots yet: <code>python -m pipeline.tune best</code> draws them, as does a search's end."
            )


def answer(respond: Respond, status: str, text: str, headers: list[tuple[str, str]] | None = None) -> list[bytes]:
    respond(status, [("Content-Type", "text/html; charset=utf-8"), *(headers or [])])
    return [text.encode()]


class Server(ThreadingMixIn, WSGIServer):
    """A thread for each request, so that none waits for another."""

    daemon_threads = True
    allow_reuse_address = os.name != "nt"


class Quiet(WSGIRequestHandler):
    """No line for each request: it would hold the token."""

    def log_message(self, format: str, *args: Any) -> None:
        pass


def open_server(config: DashboardConfig, page: Page) -> WSGIServer:
    """On the port, or the next free one."""
    for port in range(config.port, min(config.port + PORTS_TRIED, 65536)):
        with contextlib.suppress(OSError):
            return make_server(config.host, port, page, server_class=Server, handler_class=Quiet)
    raise UserError(f"no port from {config.port} on is free on {config.host}; choose another --port.")


def follow(home: Home, ended: threading.Event) -> None:
    """Keep the local copy of the journal up to date."""
    while not ended.wait(FETCH_S):
        with contextlib.suppress(ValueError):  # a store that cannot be reached for a while
            home.fetch()


def ray_dashboard() -> str | None:
    """Address of the cluster's own dashboard; a Ray that is started for a search alone has none."""
    address = os.environ.get("RAY_ADDRESS")
    if not address:
        return None
    return f"http://{address.removeprefix('ray://').rpartition(':')[0] or '127.0.0.1'}:8265"


@contextlib.contextmanager
def tensorboard(home: Home, config: DashboardConfig) -> Iterator[str | None]:
    """TensorBoard on all trials' curves, on a port of its own, for this machine alone; None without its package."""
    program = shutil.which("tensorboard", path=os.pathsep.join([os.path.dirname(sys.executable), os.environ["PATH"]]))
    if program is None:
        yield None
        return
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    folder = f"{home.store.url}/{TRIALS}"
    process = subprocess.Popen(
        [program, "--logdir", folder, "--host", "127.0.0.1", "--port", str(port)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        yield f"http://127.0.0.1:{port}/"
    finally:
        process.terminate()
        process.wait()
