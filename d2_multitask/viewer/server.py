"""The page as files: served to this machine only, or written as a folder for any web server.

A site maps the names that may be asked for to files or contents. Nothing else is ever looked up, so
no path leads anywhere else.
"""

from __future__ import annotations

import errno
import logging
import os
import re
import shutil
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

logger = logging.getLogger(__name__)

Site = dict[str, Path | bytes]

HOST = "127.0.0.1"
OWN_NAME = re.compile(r"(localhost|127\.0\.0\.1)(:\d+)?", re.IGNORECASE)
STATIC = Path(__file__).parent / "static"
PAGE = ("index.html", "style.css", "app.js", "drawing.js", "network.js")
MIME_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".json": "application/json",
    ".wasm": "application/wasm",
    ".onnx": "application/octet-stream",
}
HEADERS = {
    # With the first two a page may use threads (SharedArrayBuffer).
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Embedder-Policy": "require-corp",
    "Cross-Origin-Resource-Policy": "same-origin",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    # Another network, maybe under the same name and port, is another page.
    "Cache-Control": "no-store",
}


def build_site(model: Path, info: bytes, runtime: dict[str, Path]) -> Site:
    """All files of the page.

    Args:
        model: the exported network.
        info: its metadata, JSON.
        runtime: the files of ONNX Runtime, by name (`d2_multitask.viewer.onnxruntime_web`).
    """
    page = {name: STATIC / name for name in PAGE}
    return {**page, **runtime, "model.onnx": model, "model.json": info}


def write_site(site: Site, folder: Path) -> None:
    """Write the files into a new folder; it appears when it is complete.

    Raises:
        FileExistsError: it is there, and not empty.
        OSError: it cannot be written.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise FileExistsError(f"--static {folder}: found files there, expected a new folder")
    folder.parent.mkdir(parents=True, exist_ok=True)
    unfinished = folder.with_name(f"{folder.name}.part")
    shutil.rmtree(unfinished, ignore_errors=True)
    try:
        unfinished.mkdir()
        for name, content in site.items():
            data = content if isinstance(content, bytes) else content.read_bytes()
            (unfinished / name).write_bytes(data)
        if folder.exists():
            folder.rmdir()
        unfinished.replace(folder)
    except BaseException as error:
        shutil.rmtree(unfinished, ignore_errors=True)
        if isinstance(error, OSError) and error.errno and error.filename is None:
            error.filename = str(folder)  # "no space left" comes without the path
        raise


class Server(ThreadingHTTPServer):
    """A site on 127.0.0.1.

    Args:
        site: what is served.
        port: 0 = any that is free; ``server_port`` says which.

    Raises:
        OSError: the port is taken, or may not be used.
    """

    daemon_threads = True
    # Windows would let two servers have one port.
    allow_reuse_address = os.name == "posix"

    def __init__(self, site: Site, port: int) -> None:
        self.site = site
        try:
            super().__init__((HOST, port), _Handler)
        except OSError as error:
            if error.errno not in (errno.EADDRINUSE, errno.EACCES):
                raise
            taken = error.errno == errno.EADDRINUSE
            reason = "is taken by another program" if taken else "may not be used by this user"
            raise OSError(f"--port {port}: {reason}; --port 0 takes one that is free") from error

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A browser that hangs up is no reason for a traceback."""
        logger.debug("A request ended early", exc_info=True)


class _Handler(BaseHTTPRequestHandler):
    server: Server
    server_version, sys_version = "d2mt", ""
    timeout = 60  # seconds, for a client that sends nothing

    def do_GET(self) -> None:
        self._answer(with_body=True)

    def do_HEAD(self) -> None:
        self._answer(with_body=False)

    def _refuse(self) -> None:
        self.send_error(HTTPStatus.METHOD_NOT_ALLOWED)

    do_POST = do_PUT = do_PATCH = do_DELETE = do_OPTIONS = _refuse

    def _answer(self, with_body: bool) -> None:
        # Another name may be a foreign site whose name leads here (DNS rebinding).
        if not OWN_NAME.fullmatch(self.headers.get("Host", "")):
            self.send_error(HTTPStatus.FORBIDDEN, "This page answers to localhost only")
            return
        name = self.path.partition("?")[0].removeprefix("/") or "index.html"
        content = self.server.site.get(name)
        if content is None:
            self.send_error(HTTPStatus.NOT_FOUND)
            return
        try:
            data = content if isinstance(content, bytes) else content.read_bytes()
        except OSError as error:
            logger.warning("%s cannot be read: %s", name, error)
            self.send_error(HTTPStatus.NOT_FOUND)
            return
        self.send_response(HTTPStatus.OK)
        self.send_header("Content-Type", MIME_TYPES[Path(name).suffix])
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if with_body:
            self.wfile.write(data)

    def end_headers(self) -> None:
        for name, value in HEADERS.items():
            self.send_header(name, value)
        if self.command not in ("GET", "HEAD"):
            self.send_header("Allow", "GET, HEAD")
        super().end_headers()

    def log_message(self, format: str, *args: Any) -> None:
        logger.debug(format, *args)
