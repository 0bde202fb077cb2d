"""Decompose the symmetric part of a product of two thin factors.

D = left @ right (n × r, r × n) lives in the span of [left, rightᵀ] = U T, where U has orthonormal columns. There

    (D + Dᵀ)/2 = U C Uᵀ,    C = (T P Tᵀ)/2,    P the exchange of the two halves,

so that the 2r × 2r matrix C has all eigenvalues of the symmetric part of D that can differ from 0: no n × n matrix is
made.
"""

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]


def symmetric_part(left: Array, right: Array) -> tuple[Array, Array]:
    """Decompose the symmetric part of left @ right: Q and Λ.

    Q (n × min(2r, n)) has orthonormal columns, by falling |Λ|. The first k with their Λ make the symmetric matrix of
    rank k that is nearest to D in Frobenius's norm (Eckart and Young; the antisymmetric part is orthogonal to all).
    """
    r = left.shape[1]
    basis, upper = np.linalg.qr(np.concatenate([left, right.T], axis=1))
    core = np.concatenate([upper[:, r:], upper[:, :r]], axis=1) @ upper.T / 2
    values, vectors = np.linalg.eigh(core)
    order = np.argsort(-np.abs(values), kind="stable")
    return basis @ vectors[:, order], values[order]


def energy(left: Array, right: Array) -> float:
    """Return ‖left @ right‖², Frobenius's."""
    return float(np.sum((left.T @ left) * (right @ right.T)))
