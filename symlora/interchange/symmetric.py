"""Find the best symmetric approximation of a product of two thin factors.

D = left @ right (n × r, r × n) lives in the span of [left, rightᵀ] = U T, where U has orthonormal columns. There

    (D + Dᵀ)/2 = U C Uᵀ,    C = (T P Tᵀ)/2,    P the exchange of the two halves,

so that the 2r × 2r matrix C has all eigenvalues of the symmetric part of D that can differ from 0: no n × n matrix is
made.
"""

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]


def stacked(left: Array, right: Array) -> Array:
    """Return [left, rightᵀ], n × 2r."""
    return np.concatenate([left, right.T], axis=1)


def symmetric_core(upper: Array) -> Array:
    """Return C from T (k × 2r), the triangular factor of `stacked`."""
    r = upper.shape[1] // 2
    core: Array = np.concatenate([upper[:, r:], upper[:, :r]], axis=1) @ upper.T / 2
    return core


def best_symmetric(left: Array, right: Array, rank: int) -> tuple[Array, Array]:
    """Return Q and Λ of the best symmetric approximation Q diag(Λ) Qᵀ.

    It is nearest to left @ right in Frobenius's norm, and made of the eigenvalues of the symmetric part that are
    largest in magnitude (Eckart and Young; the antisymmetric part is orthogonal to every symmetric matrix).

    Args:
        left: n × r.
        right: r × n.
        rank: Of the result, at most min(2r, n), beyond which nothing is left to add.

    Returns:
        Q, n × rank with orthonormal columns; Λ, [rank], by falling magnitude.
    """
    n, r = left.shape
    if right.shape != (r, n):
        raise ValueError(f"ΔW is not square: factors of {left.shape} and {right.shape}")
    if not 1 <= rank <= min(2 * r, n):
        raise ValueError(f"rank must lie between 1 and {min(2 * r, n)}, found {rank}")
    basis, upper = np.linalg.qr(stacked(left, right))
    values, vectors = np.linalg.eigh(symmetric_core(upper))
    largest = np.argsort(-np.abs(values), kind="stable")[:rank]
    return basis @ vectors[:, largest], values[largest]


def energy(left: Array, right: Array) -> float:
    """Return ‖left @ right‖², Frobenius's."""
    return float(np.sum((left.T @ left) * (right @ right.T)))
