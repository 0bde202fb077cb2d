"""The largest singular values and vectors of a frozen weight, where methods take their frozen factors from it."""

import torch
from torch import Tensor


@torch.no_grad()
def truncated_svd(weight: Tensor, r: int) -> tuple[Tensor, Tensor, Tensor]:
    """U, σ, Vᵀ of the r largest singular values: U diag(σ) Vᵀ is the best approximation of rank r.

    The signs of the pairs of vectors are LAPACK's or cuSOLVER's choice: keep the factors with the adapter.

    Args:
        weight: (n_out, n_in).
        r: at most min(n_out, n_in).

    Returns:
        (n_out, r), (r) falling, (r, n_in); contiguous, in the weight's dtype or float32, whichever is wider.
    """
    wide = weight.to(torch.promote_types(weight.dtype, torch.float32))
    U, sigma, Vh = torch.linalg.svd(wide, full_matrices=False)
    return U[:, :r].contiguous(), sigma[:r].contiguous(), Vh[:r].contiguous()
