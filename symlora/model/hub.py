"""Whether the Hugging Face hub can be reached at all, asked once and quickly."""

import os
import socket
from urllib.parse import urlsplit

_PROXIES = ("HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy")


def go_offline_if_unreachable() -> None:
    """Sets HF_HUB_OFFLINE=1 when the hub's name does not resolve.

    The hub's library would retry for half a minute for each file before it says so. To be called before it is imported
    (it reads the variable once). Behind a proxy names need not resolve here, and nothing is changed.
    """
    if "HF_HUB_OFFLINE" in os.environ or any(os.environ.get(name) for name in _PROXIES):
        return
    host = urlsplit(os.environ.get("HF_ENDPOINT") or "https://huggingface.co").hostname
    try:
        socket.getaddrinfo(host, 443)
    except OSError:
        os.environ["HF_HUB_OFFLINE"] = "1"
