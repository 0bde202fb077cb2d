"""How fast this machine multiplies matrices of the model's shapes: what a training step's FLOPs are held against."""

import time

import torch

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
TOKENS_CPU = 1024  # a batch of 16 pairs; larger ones were not faster (perf.md §2: flat from 512 tokens on)
TOKENS_GPU = 16384


def matmul_rates(
    width: int, inner: int, precision: str, device: torch.device, seconds: float = 0.1
) -> dict[str, float]:
    """FLOP/s of x Wᵀ for each of the model's matrix shapes, on as many threads as torch has now.

    Args:
        width: n of the encoder.
        inner: m, the width of its feed-forward.
        precision: `fp32` or `bf16`.
        device: Where.
        seconds: Time for each shape, at least.

    Returns:
        By shape as text (`1024x384x1536`: tokens, columns, rows of W); the best of several repeats, because a peak is
        what the machine can do when nothing disturbs it.
    """
    tokens = TOKENS_GPU if device.type == "cuda" else TOKENS_CPU
    rates = {}
    for columns, rows in ((width, width), (width, inner), (inner, width)):
        x = torch.randn(tokens, columns, device=device).to(DTYPES[precision])
        weight = torch.randn(rows, columns, device=device).to(DTYPES[precision])
        once = _seconds(x, weight, 1)  # the first call makes the kernel
        once = _seconds(x, weight, 1)
        count = max(1, int(seconds / 5 / max(once, 1e-7)))
        best = min(_seconds(x, weight, count) / count for _ in range(5))
        rates[f"{tokens}x{columns}x{rows}"] = 2.0 * tokens * columns * rows / best
    return rates


@torch.inference_mode()
def _seconds(x: torch.Tensor, weight: torch.Tensor, count: int) -> float:
    _synchronize(x.device)
    started = time.perf_counter()
    for _ in range(count):
        torch.nn.functional.linear(x, weight)
    _synchronize(x.device)
    return time.perf_counter() - started


def _synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
