"""A process that dies is noticed by the others of its run within a minute, with the reason.

Each process holds a connection to rank 0 and says there how it ends. One that is killed says
nothing, but its system closes the connection; of a machine that is gone nothing is heard, which TCP
notices after half a minute. A process that is busy for long, in a metric for example, is not taken
for dead, as it would be by messages at regular times.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import sys
import threading
import time
from urllib.parse import urlparse

from torch.distributed import Store

from d2_multitask.launchers import Place

# Seconds that a process has to end by itself, e.g. while it writes a checkpoint.
GRACE = 20.0
# Seconds; its TCP connection may be closed before the news of why is here.
_NEWS = 5.0
_KEEPALIVE = {"TCP_KEEPIDLE": 15, "TCP_KEEPINTVL": 5, "TCP_KEEPCNT": 3}


class Peers:
    """The other processes of the run, as this one hears of them.

    Attributes:
        news: which process has died and why; empty as long as none has.
    """

    def __init__(self, place: Place, store: Store, seconds: float) -> None:
        """
        Args:
            place: of this process.
            store: of all processes; they meet here, so each has to make this object.
            seconds: the longest wait for them.

        Raises:
            OSError: they did not come in time.
        """
        self.news = ""
        self._place = place
        self._heard = threading.Event()
        self._connections: list[socket.socket] = []
        if place.rank == 0:
            server = socket.create_server(("", 0), backlog=place.world_size)
            store.set("port_of_peers", str(server.getsockname()[1]))
            server.settimeout(seconds)
            with server:
                for _ in range(place.world_size - 1):
                    self._listen(server.accept()[0])
        else:
            port = int(store.get("port_of_peers"))
            self._listen(socket.create_connection((urlparse(place.url).hostname, port), seconds))

    def leave(self, reason: str) -> None:
        """Say how this process ends; empty = as it should."""
        self._tell(f"rank {self._place.rank} of {socket.gethostname()}: {reason}" if reason else "")
        for connection in self._connections:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    def wait_for_news(self) -> str:
        """The news, which may take a moment; empty if there are none."""
        self._heard.wait(_NEWS)
        return self.news

    def _listen(self, connection: socket.socket) -> None:
        connection.settimeout(None)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for name, value in _KEEPALIVE.items():
            if hasattr(socket, name):
                connection.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
        who = f"rank {self._place.rank} of {socket.gethostname()}, process {os.getpid()}"
        connection.sendall(f"{json.dumps(who)}\n".encode())
        self._connections.append(connection)
        threading.Thread(target=self._hear, args=(connection,), daemon=True).start()

    def _hear(self, connection: socket.socket) -> None:
        who, last = "a process that has just started", None
        with contextlib.suppress(OSError, ValueError), connection.makefile() as lines:
            who = json.loads(next(lines, json.dumps(who)))
            last = json.loads(next(lines, "null"))
        if last == "" or self.news:
            return
        self.news = last or (
            f"{who}: it has ended without a message: killed, out of memory, or its machine is down"
        )
        self._tell(self.news)  # rank 0 knows all others; before this process may end
        self._heard.set()
        time.sleep(GRACE)
        sys.stderr.write(f"{what_died(self.news)}\n")
        sys.stderr.flush()
        os._exit(1)  # no exception: a message that never comes may hold up the main thread

    def _tell(self, text: str) -> None:
        for connection in self._connections:
            with contextlib.suppress(OSError):
                connection.sendall(f"{json.dumps(text)}\n".encode())


def what_died(news: str) -> str:
    """The sentence for people, of `Peers.news`."""
    return (
        f"Error: another process of this run has ended, so this one ends too. {news}. What was "
        "saved is whole: go on with --resume"
    )
