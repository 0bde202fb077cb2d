"""Check quickly whether the Hugging Face hub can be reached."""

import os
import socket
import threading
from contextlib import suppress
from typing import Any
from urllib.parse import urlsplit

PATIENCE = 2.0  # seconds for a connection: a port that drops packets never answers
_PROXIES = ("HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy")


def go_offline_if_unreachable() -> None:
    """Set HF_HUB_OFFLINE=1 if the hub accepts no connection.

    The hub's library would retry for minutes before it uses its cache. Call this before that library is imported, as
    it reads the variable once. Behind a proxy the hub need not be reachable from here, and nothing is changed.
    """
    if "HF_HUB_OFFLINE" in os.environ or any(os.environ.get(name) for name in _PROXIES):
        return
    endpoint = urlsplit(os.environ.get("HF_ENDPOINT") or "https://huggingface.co")
    port = endpoint.port or (80 if endpoint.scheme == "http" else 443)
    if not _accepts(endpoint.hostname, port):
        os.environ["HF_HUB_OFFLINE"] = "1"


def _accepts(host: str | None, port: int) -> bool:
    """Tell whether one of a host's addresses accepts a connection."""
    try:
        addresses = {found[4][:2] for found in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)}
    except OSError:
        return False
    accepted = threading.Event()

    def connect(address: Any) -> None:
        with suppress(OSError), socket.create_connection(address, timeout=PATIENCE):
            accepted.set()

    for address in addresses:  # all at once, as IPv6 alone may be blocked
        threading.Thread(target=connect, args=(address,), daemon=True).start()
    return accepted.wait(PATIENCE)
