"""How symmetric are the updates that were learned? LoRA is free in this, SymLoRA is not.

With S = (ΔW + ΔWᵀ)/2 and all norms Frobenius's:
    symmetric share   ‖S‖² / ‖ΔW‖², 1 for a symmetric ΔW, 0 for an antisymmetric one, (1 + 1/n)/2 for random factors;
    captured          share of ‖ΔW‖² in the best symmetric matrix of ΔW's rank r: Σ μ² / ‖ΔW‖² over the r eigenvalues μ
                      of S largest in magnitude (Eckart and Young; the antisymmetric part is orthogonal to them all).

Both would be large by chance where ΔW has few large singular values, so beside each stands what random directions give:
factors of normal numbers, and ΔW's own singular values with directions drawn anew.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from symlora.errors import SymloraError
from symlora.interchange.symmetric import stacked, symmetric_core
from symlora.report.collect import Problem
from symlora.report.names import METHODS, TASKS, section_name
from symlora.stats.rounding import points
from symlora.store.adapter_folder import Array, Factors, find_factors, read_adapter, read_tensors

ROUNDING = 1e-6  # eigenvalues below this part of the largest one are rounding: factors are stored in float32
DRAWS = 32  # of random directions
LABELS = ("protocol", "model", "task", "method", "configuration", "seed")
GROUP = ["protocol", "model", "task", "method", "projection"]


@dataclass(frozen=True)
class Symmetry:
    """What was measured.

    Attributes:
        frame: One row a stored adapter and square adapted matrix: LABELS, layer (from 1), projection, and the keys of
            `measure`.
        bad: Adapters that could not be read.
        without: Finished adapter runs that keep no weights.
    """

    frame: pd.DataFrame
    bad: tuple[Problem, ...]
    without: int


def symmetric_share(delta: Array) -> float:
    """‖(ΔW + ΔWᵀ)/2‖² / ‖ΔW‖² of a matrix n × n; nan for ΔW = 0.

    Raises:
        ValueError: The matrix is not square.
    """
    energy = float(np.square(_square(delta)).sum())
    return float(np.square((delta + delta.T) / 2).sum()) / energy if energy else float("nan")


def captured_share(delta: Array, rank: int) -> float:
    """Share of ‖ΔW‖² that the best symmetric matrix of this rank holds; nan for ΔW = 0.

    Raises:
        ValueError: The matrix is not square.
    """
    energy = float(np.square(_square(delta)).sum())
    return _largest(np.linalg.eigvalsh((delta + delta.T) / 2), rank) / energy if energy else float("nan")


def symmetric_eigenvalues(left: Array, right: Array) -> Array:
    """Eigenvalues of (D + Dᵀ)/2 for D = left @ right (n × r, r × n), those that can differ from 0: at most 2r.

    Taken in the span of the factors (symlora.interchange.symmetric), so that no n × n matrix is made.
    """
    upper = np.linalg.qr(stacked(left, right))[1]
    values: Array = np.linalg.eigvalsh(symmetric_core(upper)).astype(np.float64, copy=False)
    return values


def measure(left: Array, right: Array, seed: int = 0) -> dict[str, Any]:
    """The row of one ΔW = left @ right, which any factor α/r leaves as it is.

    Keys: rank (r, of the factors), symmetric_share, captured, positive and negative (eigenvalues of the symmetric part
    beyond rounding), and by chance: share_random = (1 + 1/n)/2, captured_random (factors of normal numbers),
    share_rotated, share_rotated_s and captured_rotated (ΔW's singular values, random directions: mean and standard
    deviation over DRAWS). Shares are nan for ΔW = 0.

    Raises:
        ValueError: left @ right is not square.
    """
    n, r = left.shape
    if right.shape != (r, n):
        raise ValueError(f"ΔW is not square: factors of {left.shape} and {right.shape}")
    energy = float(np.sum((left.T @ left) * (right @ right.T)))
    eigenvalues = symmetric_eigenvalues(left, right)
    floor = ROUNDING * float(np.abs(eigenvalues).max())
    random = random_baseline(n, r, seed)
    row: dict[str, Any] = {
        "rank": r,
        "symmetric_share": float("nan"),
        "captured": float("nan"),
        "positive": int((eigenvalues > floor).sum()),
        "negative": int((eigenvalues < -floor).sum()),
        "share_random": (1 + 1 / n) / 2,
        "captured_random": random["captured"],
        "share_rotated": float("nan"),
        "share_rotated_s": float("nan"),
        "captured_rotated": float("nan"),
    }
    if energy > 0:
        row["symmetric_share"] = float(np.square(eigenvalues).sum()) / energy
        row["captured"] = _largest(eigenvalues, r) / energy
        shares, captured = rotated(_singular_values(left, right), n, seed)
        row["share_rotated"], row["share_rotated_s"] = float(shares.mean()), float(shares.std(ddof=1))
        row["captured_rotated"] = float(captured.mean())
    return row


@lru_cache(maxsize=64)
def random_baseline(n: int, r: int, seed: int = 0) -> dict[str, float]:
    """Mean share and captured share over DRAWS products B A of standard normal factors, n × r and r × n.

    The share's expectation is close to (1 + 1/n)/2: E tr(BABA) = n r against E ‖BA‖² = n² r.
    """
    rng = np.random.default_rng(seed)
    shares, captured = [], []
    for _ in range(DRAWS):
        b, a = rng.normal(size=(n, r)), rng.normal(size=(r, n))
        energy = float(np.sum((b.T @ b) * (a @ a.T)))
        eigenvalues = symmetric_eigenvalues(b, a)
        shares.append(float(np.square(eigenvalues).sum()) / energy)
        captured.append(_largest(eigenvalues, r) / energy)
    return {"share": float(np.mean(shares)), "captured": float(np.mean(captured))}


def rotated(singular_values: Array, n: int, seed: int = 0) -> tuple[Array, Array]:
    """Shares and captured shares, [DRAWS] each, of U diag(σ) Vᵀ with U, V random n × r with orthonormal columns.

    What a ΔW with these singular values would give whose left and right directions have nothing to do with each other.
    """
    r = len(singular_values)
    energy = float(np.square(singular_values).sum())
    shares, captured = [], []
    for left, right in _directions(n, r, seed):
        eigenvalues = symmetric_eigenvalues(left * singular_values, right.T)
        shares.append(float(np.square(eigenvalues).sum()) / energy)
        captured.append(_largest(eigenvalues, r) / energy)
    return np.array(shares), np.array(captured)


def symmetry_of_runs(runs: pd.DataFrame, seed: int = 0) -> Symmetry:
    """Measures the adapters of finished runs.

    Args:
        runs: The frame of symlora.report.collect.
        seed: Of the random directions.
    """
    rows: list[dict[str, Any]] = []
    bad: list[Problem] = []
    without = 0
    for run in runs[(runs["status"] == "finished") & (runs["adapter"] > 0)].to_dict("records"):
        folder: Path = run["folder"] / "adapter"
        if not folder.is_dir():
            without += 1
            continue
        try:
            rows += _rows(read_adapter(folder).factors(), {name: run[name] for name in LABELS}, seed)
        except SymloraError as error:
            place = "/".join(run["folder"].parts[-6:])
            bad.append(Problem(f"{place}/adapter", str(error).replace(f"{run['folder']}/", "")))
    return Symmetry(_frame(rows), tuple(bad), without)


def symmetry_of_checkpoint(
    path: Path, task: str = "mnli", method: str = "lora", model: str = "roberta-base", seed: int = 0
) -> pd.DataFrame:
    """The same frame of one released adapter (a folder or a safetensors file): protocol "released", no run's seed (-1).

    Raises:
        SymloraError: The adapter cannot be read.
    """
    labels = dict(zip(LABELS, ("released", model, task, method, path.stem, -1), strict=True))
    found = read_adapter(path).factors() if path.is_dir() else find_factors(read_tensors(path), path)
    return _frame(_rows(found, labels, seed))


def summary(frame: pd.DataFrame) -> list[tuple[str, ...]]:
    """Take means over layers and seeds, in percent.

    Returns:
        The header, then one row a protocol, model, task, method and projection.
    """
    header = (
        "runs of", "task", "method", "projection", "matrices", "symmetric", "by chance", "captured", "random factors",
        "same singular values", "positive", "negative",
    )  # fmt: skip
    rows: list[tuple[str, ...]] = [header]
    for key, part in frame.groupby(GROUP, sort=True):
        protocol, model, task, method, projection = (str(name) for name in key)
        means = part.mean(numeric_only=True)
        rows.append(
            (
                section_name(model, protocol),
                TASKS.get(task, task),
                METHODS.get(method, method),
                projection,
                str(len(part)),
                _percent(means["symmetric_share"]),
                _percent(means["share_rotated"]),
                _percent(means["captured"]),
                _percent(means["captured_random"]),
                _percent(means["captured_rotated"]),
                f"{means['positive']:.1f}",
                f"{means['negative']:.1f}",
            )
        )
    return rows


def symmetry_markdown(symmetry: Symmetry) -> str:
    """The page results/symmetry.md."""
    lines = [
        "# How symmetric are the updates?",
        "",
        "Percent of ‖ΔW‖² (Frobenius) in the symmetric part of ΔW (symmetric), and in the best symmetric matrix of",
        "ΔW's rank (captured); means over layers and seeds. Beside each stands what chance gives: `by chance` and",
        "`same singular values` keep ΔW's singular values and draw its directions anew, `random factors` has normal",
        "numbers. An update that leans toward symmetry lies above the first two. Positive, negative: numbers of",
        "eigenvalues of the symmetric part; where SymLoRA has both, its ΔW is indefinite.",
        "",
    ]
    if len(symmetry.frame):
        header, *rows = summary(symmetry.frame)
        lines += ["| " + " | ".join(row) + " |" for row in (header, ("---",) * len(header), *rows)]
    else:
        lines.append("No stored adapter was found.")
    if symmetry.without:
        lines += ["", f"{symmetry.without} finished runs keep no weights and are not in the table."]
    lines += [line for problem in symmetry.bad for line in ("", f"Left out: {problem.place}: {problem.reason}")]
    return "\n".join(lines) + "\n"


def _rows(factors: Sequence[Factors], labels: dict[str, Any], seed: int) -> list[dict[str, Any]]:
    """Rows of the square matrices; others have no symmetric part."""
    return [
        {**labels, "layer": each.layer, "projection": each.projection, **measure(each.left, each.right, seed)}
        for each in factors
        if each.left.shape[0] == each.right.shape[1]
    ]


def _frame(rows: list[dict[str, Any]]) -> pd.DataFrame:
    columns = [*LABELS, "layer", "projection", *measure(np.eye(2, 1), np.eye(1, 2))]
    return pd.DataFrame(rows, columns=columns)


def _singular_values(left: Array, right: Array) -> Array:
    core = np.linalg.qr(left)[1] @ np.linalg.qr(right.T)[1].T
    values: Array = np.linalg.svd(core, compute_uv=False)
    return values


@lru_cache(maxsize=8)
def _directions(n: int, r: int, seed: int) -> tuple[tuple[Array, Array], ...]:
    rng = np.random.default_rng(seed)

    def orthonormal() -> Array:
        q: Array = np.linalg.qr(rng.normal(size=(n, r)))[0]
        return q

    return tuple((orthonormal(), orthonormal()) for _ in range(DRAWS))


def _largest(eigenvalues: npt.NDArray[np.floating[Any]], count: int) -> float:
    """Σ μ² over the eigenvalues largest in magnitude."""
    return float(np.sort(np.square(eigenvalues))[::-1][:count].sum())


def _square(delta: Array) -> Array:
    if delta.ndim != 2 or delta.shape[0] != delta.shape[1]:
        raise ValueError(f"ΔW is not square: {delta.shape}")
    return delta


def _percent(share: float) -> str:
    return str(points(share))
