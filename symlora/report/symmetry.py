"""Measure how symmetric the learned updates are.

With S = (ΔW + ΔWᵀ)/2 and Frobenius norms:
    symmetric share   ‖S‖² / ‖ΔW‖², 1 for a symmetric ΔW, 0 for an antisymmetric one, (1 + 1/n)/2 for random factors;
    captured          share of ‖ΔW‖² in the best symmetric matrix of ΔW's rank r: Σ μ² / ‖ΔW‖² over the r eigenvalues μ
                      of S largest in magnitude (Eckart and Young; the antisymmetric part is orthogonal to them all).

Both would be large by chance where ΔW has few large singular values, so each is shown with what random directions give:
factors of normal numbers, and ΔW's own singular values with directions drawn anew.
"""

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from symlora.audit.names import METHODS, TASKS, section_name
from symlora.errors import SymloraError
from symlora.interchange.symmetric import energy, symmetric_part
from symlora.stats.rounding import points
from symlora.store.adapter_folder import Array, Factors, find_factors, read_adapter, read_tensors

ROUNDING = 1e-6  # eigenvalues below this part of the largest one are rounding: factors are stored in float32
DRAWS = 32  # of random directions
LABELS = ("protocol", "model", "task", "method", "configuration", "seed")
MEASURES = (
    "rank",  # of the factors
    "symmetric_share", "captured",  # NaN for ΔW = 0, as all shares but captured_random
    "positive", "negative",  # eigenvalues of the symmetric part beyond rounding
    "share_rotated", "captured_rotated",  # by chance: ΔW's singular values, random directions; means over DRAWS
    "captured_random",  # by chance: factors of normal numbers
)  # fmt: skip
HEADER = (
    "runs of", "task", "method", "projection", "matrices", "symmetric", "by chance", "captured", "random factors",
    "same singular values", "positive", "negative",
)  # fmt: skip
RELEASED = "released_adapters.csv"
_COLUMNS = [*LABELS, "layer", "projection", *MEASURES]


def measure(left: Array, right: Array, seed: int = 0) -> dict[str, Any]:
    """Compute MEASURES of ΔW = left @ right, whatever the factor α/r.

    Factors are [n, r] and [r, n]; `seed` is that of the random directions.
    """
    n, r = left.shape
    size, eigenvalues = energy(left, right), symmetric_part(left, right)[1]
    floor = ROUNDING * float(np.abs(eigenvalues).max())
    own = rotated = (np.nan, np.nan)
    if size > 0:
        own = _shares(eigenvalues, r, size)
        core = np.linalg.qr(left)[1] @ np.linalg.qr(right.T)[1].T
        rotated = rotated_shares(np.linalg.svd(core, compute_uv=False), n, seed).mean(axis=0)
    signs = (int((eigenvalues > floor).sum()), int((eigenvalues < -floor).sum()))
    return dict(zip(MEASURES, (r, *own, *signs, *rotated, captured_by_chance(n, r, seed)), strict=True))


@lru_cache(maxsize=64)
def captured_by_chance(n: int, r: int, seed: int = 0) -> float:
    """Average the captured share over DRAWS products of normal factors."""
    rng = np.random.default_rng(seed)
    draws = ((rng.normal(size=(n, r)), rng.normal(size=(r, n))) for _ in range(DRAWS))
    return float(np.mean([_shares(symmetric_part(b, a)[1], r, energy(b, a))[1] for b, a in draws]))


def rotated_shares(singular_values: Array, n: int, seed: int = 0) -> Array:
    """Compute symmetric and captured share with random directions: [DRAWS, 2].

    They are those of U diag(σ) Vᵀ with U, V random n × r with orthonormal columns: what a ΔW with these singular values
    would give whose left and right directions have nothing in common.
    """
    r, size = len(singular_values), float(np.square(singular_values).sum())
    parts = (symmetric_part(left * singular_values, right.T)[1] for left, right in _directions(n, r, seed))
    return np.array([_shares(eigenvalues, r, size) for eigenvalues in parts])


def symmetry_of_runs(runs: pd.DataFrame, seed: int = 0) -> tuple[pd.DataFrame, tuple[str, ...], int]:
    """Measure the adapters of finished runs, rows of symlora.report.collect.

    Returns:
        A frame with a row per stored adapter and square adapted matrix (LABELS, layer, projection, MEASURES); the
        adapters that could not be read, each with the reason; the number of finished adapter runs without weights.
    """
    rows: list[dict[str, Any]] = []
    bad: list[str] = []
    without = 0
    for run in runs[(runs["status"] == "finished") & (runs["adapter"] > 0)].to_dict("records"):
        folder: Path = run["folder"]
        if not (folder / "adapter").is_dir():
            without += 1
            continue
        try:
            rows += _rows(read_adapter(folder / "adapter").factors(), {name: run[name] for name in LABELS}, seed)
        except SymloraError as error:
            bad.append(f"{'/'.join(folder.parts[-6:])}/adapter: {str(error).replace(f'{folder}/', '')}")
    return pd.DataFrame(rows, columns=_COLUMNS), tuple(bad), without


def symmetry_of_checkpoint(path: Path, seed: int = 0) -> pd.DataFrame:
    """Measure LoRA's released adapter, a folder or a safetensors file."""
    labels = dict(zip(LABELS, ("released", "roberta-base", "mnli", "lora", path.stem, -1), strict=True))
    found = read_adapter(path).factors() if path.is_dir() else find_factors(read_tensors(path), path)
    return pd.DataFrame(_rows(found, labels, seed), columns=_COLUMNS)


def summary(frame: pd.DataFrame) -> list[tuple[str, ...]]:
    """Average over layers and seeds, in percent, as rows under HEADER."""
    rows = []
    shares = ("symmetric_share", "share_rotated", "captured", "captured_random", "captured_rotated")
    for key, part in frame.groupby(["protocol", "model", "task", "method", "projection"]):
        protocol, model, task, method, projection = map(str, key)
        names = (section_name(model, protocol), TASKS.get(task, task), METHODS.get(method, method), projection)
        means = part.mean(numeric_only=True)
        signs = (f"{means[name]:.1f}" for name in ("positive", "negative"))
        rows.append((*names, str(len(part)), *(str(points(means[name])) for name in shares), *signs))
    return rows


def symmetry_markdown(frame: pd.DataFrame, bad: Sequence[str], without: int) -> str:
    """Write the page results/symmetry.md from what `symmetry_of_runs` returns."""
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
    rows = (HEADER, ("---",) * len(HEADER), *summary(frame))
    table = ["| " + " | ".join(row) + " |" for row in rows]
    lines += table if len(frame) else ["No stored adapter was found."]
    if without:
        lines += ["", f"{without} finished runs keep no weights and are not in the table."]
    lines += [line for problem in bad for line in ("", f"Left out: {problem}")]
    return "\n".join(lines) + "\n"


def _rows(factors: Sequence[Factors], labels: dict[str, Any], seed: int) -> list[dict[str, Any]]:
    """Measure the square matrices; others have no symmetric part."""
    return [
        {**labels, "layer": each.layer, "projection": each.projection, **measure(each.left, each.right, seed)}
        for each in factors
        if each.left.shape[0] == each.right.shape[1]
    ]


@lru_cache(maxsize=8)
def _directions(n: int, r: int, seed: int) -> Array:
    """Draw orthonormal columns: [DRAWS, 2, n, r]."""
    drawn: Array = np.linalg.qr(np.random.default_rng(seed).normal(size=(DRAWS, 2, n, r)))[0]
    return drawn


def _shares(eigenvalues: Array, rank: int, size: float) -> tuple[float, float]:
    """Compute both shares from the symmetric part's eigenvalues, the largest first."""
    squares = np.square(eigenvalues)
    return float(squares.sum()) / size, float(squares[:rank].sum()) / size
