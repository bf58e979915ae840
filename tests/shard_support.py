"""Shards of tiny images, and a server on loopback that may fail."""

from __future__ import annotations

import contextlib
import functools
import io
import tarfile
import threading
from collections import Counter
from collections.abc import Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
from PIL import Image


def jpeg(number: int) -> bytes:
    """A small image of its own grey."""
    file = io.BytesIO()
    pixels = np.full((8 + number % 3, 12, 3), 4 * number % 256, np.uint8)
    Image.fromarray(pixels).save(file, "JPEG")
    return file.getvalue()


def write_shards(folder: Path, counts: tuple[int, ...] = (5, 3, 4), format: int = 2) -> list[str]:
    """Shards as other programs write them: with labels beside the images, which are numbered."""
    folder.mkdir(parents=True, exist_ok=True)
    numbers = iter(range(sum(counts)))
    paths = []
    for shard, count in enumerate(counts):
        paths.append(str(folder / f"images-{shard:03d}.tar"))
        with tarfile.open(paths[-1], "w", format=format) as tar:
            for _ in range(count):
                number = next(numbers)
                for name, content in (("jpg", jpeg(number)), ("json", b"{}"), ("mask.png", b"x")):
                    member = tarfile.TarInfo(f"set/{number:04d}.{name}")
                    member.size, member.mtime = len(content), 1.5
                    tar.addfile(member, io.BytesIO(content))
    return paths


class _Handler(SimpleHTTPRequestHandler):
    def do_GET(self) -> None:
        server = self.server
        server.requests[self.path, self.headers.get("Range")] += 1
        if server.failures > 0 and self.path.endswith(".tar") and not self.headers.get("Range"):
            server.failures -= 1
            self.send_error(503)
            return
        if server.cuts > 0 and self.path.endswith(".tar") and not self.headers.get("Range"):
            server.cuts -= 1
            content = Path(self.translate_path(self.path)).read_bytes()
            self.send_response(200)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content[: len(content) // 2])
            return
        with contextlib.suppress(ConnectionError):  # who asks for the size reads no content
            super().do_GET()

    def log_message(self, *_: object) -> None:
        pass


@contextlib.contextmanager
def served(folder: Path) -> Iterator[ThreadingHTTPServer]:
    """A server of a folder; ``url``, ``requests`` (counted), ``failures`` (503s still to give),
    ``cuts`` (connections still to break).
    """
    handler = functools.partial(_Handler, directory=str(folder))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        server.url = f"http://127.0.0.1:{server.server_port}"
        server.requests, server.failures, server.cuts = Counter(), 0, 0
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()
