"""A CPU's training keeps the memory of its steps, and gives it back."""

import ctypes
import resource
import sys

import pytest
import torch

from symlora.model.device import keep_freed_memory

CPU = torch.device("cpu")


def faults() -> int:
    """Count the pages that the system maps for a tensor of 256 MiB."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    torch.ones(2**26)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before


@pytest.mark.skipif(
    sys.platform != "linux" or not hasattr(ctypes.CDLL(None), "mallopt"), reason="the C library is not glibc"
)
def test_freed_memory_is_kept_and_given_back() -> None:
    keep_freed_memory(CPU, True)
    try:
        first, second = faults(), faults()
    finally:
        keep_freed_memory(CPU, False)
    third, fourth = faults(), faults()
    assert second < 20 < min(first, third, fourth)  # 65,536 pages of 4 KiB, or 128 of 2 MiB


def test_a_gpu_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ctypes, "CDLL", lambda name: pytest.fail("asked for the C library"))
    keep_freed_memory(torch.device("cuda"), True)
