"""A port that nobody uses, for what cannot take any free one by itself."""

from __future__ import annotations

import random
import socket
from pathlib import Path


def free_port() -> int:
    """One that stays free: none of those that the kernel gives to whoever asks for any (ip(7)).

    One of those may be somebody's at the next moment, even of the client that tries whether the server is there yet.
    """
    first = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    while True:
        port = random.SystemRandom().randrange(first // 2, first)
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) != 0:
                return port
