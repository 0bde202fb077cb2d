"""A CPU's training keeps the memory of its steps, and gives it back."""

import ctypes
import subprocess
import sys

import pytest
import torch

from symlora.model.device import keep_freed_memory

# In a process of its own, whose heap no other test has shaped: the pages that the system maps for 256 MiB, four times.
PROGRAM = """
import resource, torch
from symlora.model.device import keep_freed_memory
for keep in (True, True, False, False):
    keep_freed_memory(torch.device("cpu"), keep)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    torch.ones(2**26)
    print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(
    sys.platform != "linux" or not hasattr(ctypes.CDLL(None), "mallopt"), reason="the C library is not glibc"
)
def test_freed_memory_is_kept_and_given_back() -> None:
    printed = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True).stdout
    first, second, third, fourth = map(int, printed.split())
    assert second < 20 < min(first, third, fourth)  # 65,536 pages of 4 KiB, or 128 of 2 MiB


def test_a_gpu_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ctypes, "CDLL", lambda name: pytest.fail("asked for the C library"))
    keep_freed_memory(torch.device("cuda"), True)
