"""Check symmetry against whole matrices, known cases and stored adapters."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from conftest import SHARED
from hypothesis import given
from hypothesis import strategies as st
from report_runs import committed
from safetensors.numpy import save_file

from symlora.errors import SymloraError
from symlora.interchange.symmetric import symmetric_part
from symlora.report import symmetry
from symlora.report.symmetry import (
    captured_by_chance,
    measure,
    rotated_shares,
    summary,
    symmetry_markdown,
    symmetry_of_checkpoint,
    symmetry_of_runs,
)
from symlora.store.adapter_folder import read_adapter

RELEASED = SHARED / "lora-mnli-roberta-base" / "roberta_base_lora_mnli.safetensors"
Q = "base_model.model.encoder.layer.3.attention.self.query"


def factors(n: int, r: int, seed: int) -> tuple[Any, Any]:
    rng = np.random.default_rng(seed)
    return rng.normal(size=(n, r)), rng.normal(size=(r, n))


def whole_shares(delta: Any, rank: int) -> tuple[float, float]:
    """Compute symmetric and captured share by their definitions, of a whole matrix."""
    even, energy = (delta + delta.T) / 2, float(np.square(delta).sum())
    largest = np.sort(np.square(np.linalg.eigvalsh(even)))[::-1][:rank]
    return float(np.square(even).sum()) / energy, float(largest.sum()) / energy


def test_known_shares() -> None:
    column, row = np.eye(4)[:, :1], np.eye(4)[1:2]
    corner = measure(2.0 * column, row)  # one entry beside the diagonal; eigenvalues of the symmetric part: 1, -1
    assert (corner["symmetric_share"], corner["captured"]) == pytest.approx((0.5, 0.25))
    assert (corner["positive"], corner["negative"], corner["rank"]) == (1, 1, 1)
    odd = measure(np.hstack([column, -row.T]), np.vstack([row, column.T]))  # antisymmetric
    assert odd["symmetric_share"] == pytest.approx(0, abs=1e-15)
    q, diagonal = np.random.default_rng(0).normal(size=(40, 5)), np.array([3.0, -1.0, 0.5, -2.0, 4.0])
    symlora = measure(q * diagonal, q.T)  # Sylvester's law of inertia
    assert (symlora["positive"], symlora["negative"]) == (3, 2)
    assert (symlora["symmetric_share"], symlora["captured"]) == pytest.approx((1, 1))


@given(n=st.integers(2, 14), r=st.integers(1, 5), seed=st.integers(0, 10**6), scale=st.sampled_from([1e-6, -0.5, 1e5]))
def test_factors_of_any_scale_give_what_the_whole_matrix_gives(n: int, r: int, seed: int, scale: float) -> None:
    left, right = factors(n, r, seed)
    delta = left @ right
    row = measure(scale * left, right)
    assert (row["symmetric_share"], row["captured"]) == pytest.approx(whole_shares(delta, r), rel=1e-9)
    whole = np.linalg.eigvalsh(np.sign(scale) * (delta + delta.T) / 2)
    floor = symmetry.ROUNDING * np.abs(whole).max()
    assert (row["positive"], row["negative"]) == (int((whole > floor).sum()), int((whole < -floor).sum()))
    _, few = symmetric_part(left, right)
    assert len(few) == min(n, 2 * r)
    assert float(np.square(few).sum()) == pytest.approx(float(np.square(whole).sum()), rel=1e-9)


def test_zero_update_has_no_share_and_no_signs() -> None:
    row = measure(np.zeros((6, 2)), np.ones((2, 6)))
    assert math.isnan(row["symmetric_share"]) and math.isnan(row["captured"]) and math.isnan(row["share_rotated"])
    assert (row["positive"], row["negative"]) == (0, 0)


def test_baseline_of_roberta() -> None:
    # Computed by hand: 29 % captured at 768 × 768, rank 8.
    assert captured_by_chance(768, 8) == pytest.approx(0.29, abs=0.01)


def test_rotated_keeps_singular_values_and_knows_the_limit() -> None:
    # With U and V nearly orthogonal, S has eigenvalues ±σ/2: the r largest hold half of the r/2 largest σ².
    sigma = np.array([5.0, 3.0, 1.0, 0.5])
    shares, captured = rotated_shares(sigma, 1500).T
    limit = (sigma[:2] ** 2).sum() / (sigma**2).sum() / 2
    assert captured.mean() == pytest.approx(limit, abs=0.005) and shares.mean() == pytest.approx(0.5, abs=0.002)
    again, other = rotated_shares(sigma, 1500)[:, 0], rotated_shares(sigma, 1500, 1)[:, 0]
    assert np.array_equal(again, shares) and not np.array_equal(other, shares)


def test_a_leaning_update_stands_out_from_chance() -> None:
    rng = np.random.default_rng(0)
    q, noise = rng.normal(size=(100, 4)), rng.normal(size=(4, 100))
    row, chance = measure(q, q.T + noise), measure(*factors(100, 4, 3))
    values = np.linalg.svd(q @ (q.T + noise), compute_uv=False)[:4].astype(np.float64)
    spread = rotated_shares(values, 100)[:, 0].std(ddof=1)
    assert row["symmetric_share"] - row["share_rotated"] > 10 * spread
    assert abs(chance["symmetric_share"] - chance["share_rotated"]) < 4 * spread


def store(folder: Path, tensors: dict[str, Any], **config: Any) -> Path:
    folder.mkdir(parents=True)
    (folder / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", **config}))
    contiguous = {name: np.ascontiguousarray(value) for name, value in tensors.items()}
    save_file(contiguous, folder / "adapter_model.safetensors")
    return folder


def test_rows_are_by_layer_not_by_name(tmp_path: Path) -> None:
    b, a = factors(6, 1, 0)
    names: dict[str, Any] = {}
    for layer in (10, 2):
        names |= {f"layer.{layer}.query.lora_A.weight": a, f"layer.{layer}.query.lora_B.weight": b}
    assert [each.layer for each in read_adapter(store(tmp_path / "x", names)).factors()] == [3, 11]


@pytest.mark.parametrize(
    ("tensors", "config", "message"),
    [
        ({f"{Q}.lora_A.weight": np.ones((2, 4)), f"{Q}.lora_B.weight": np.ones((4, 3))}, {}, "make no product"),
        ({f"{Q}.lora_A.weight": np.ones((2, 4))}, {"peft_type": "VERA"}, "VERA adapter: its ΔW is not a product"),
        ({f"{Q}.lora_A.weight": np.ones((2, 4))}, {"use_dora": True}, "DoRA"),
    ],
)
def test_what_cannot_be_analysed_is_named(
    tmp_path: Path, tensors: dict[str, Any], config: dict[str, Any], message: str
) -> None:
    with pytest.raises(SymloraError, match=f"adapter.*{message}"):
        read_adapter(store(tmp_path / "adapter", tensors, **config)).factors()


def runs(*folders: Path, **changes: Any) -> pd.DataFrame:
    row = {"status": "finished", "adapter": 1, "protocol": "p", "model": "minilm", "task": "rte", "method": "lora"}
    frame = pd.DataFrame([{**row, "configuration": "c", "seed": k, "folder": f} for k, f in enumerate(folders)])
    return frame.assign(**changes)


def test_runs_without_weights_are_counted_and_broken_ones_left_out(tmp_path: Path) -> None:
    b, a = factors(6, 2, 0)
    good = {f"{Q}.lora_A.weight": a, f"{Q}.lora_B.weight": b}
    wide = {"x.value.lora_A.weight": np.ones((2, 9)), "x.value.lora_B.weight": b}  # 6 × 9: no symmetric part
    store(tmp_path / "one" / "adapter", good | wide)
    (tmp_path / "two").mkdir()
    store(tmp_path / "three" / "adapter", {f"{Q}.lora_A.weight": a})
    frame, bad, without = symmetry_of_runs(runs(tmp_path / "one", tmp_path / "two", tmp_path / "three"))
    assert without == 1 and len(frame) == 1
    assert frame.iloc[0]["symmetric_share"] == pytest.approx(whole_shares(b @ a, 2)[0])
    place, _, reason = bad[0].partition(": ")
    assert len(bad) == 1 and place.endswith("three/adapter") and "has only lora_A" in reason
    assert str(tmp_path) not in reason
    page = symmetry_markdown(frame, bad, without)
    assert "1 finished runs keep no weights" in page and "Left out" in page and "| RTE | LoRA | query | 1 |" in page
    none = symmetry_of_runs(runs(tmp_path / "one", status="failed"))
    assert len(none[0]) == 0 and "No stored adapter was found." in symmetry_markdown(*none)
    assert list(none[0].columns) == list(frame.columns)


def test_summary_takes_means_in_percent() -> None:
    left, right = factors(8, 2, 0)
    frame = runs(Path("0"), Path("1"), task="cola", layer=1, projection="value", **measure(left, right))
    (row,) = summary(frame)
    assert row[1:5] == ("CoLA", "LoRA", "value", "2")
    shares = np.array(whole_shares(left @ right, 2))
    assert [float(row[5]), float(row[7])] == pytest.approx(100 * shares, abs=0.051)


def test_committed_runs_agree_with_the_norms_stored_beside_them() -> None:
    # norms.parquet was written at the end of training, by torch, from the whole matrix.
    collected = committed().runs
    kept = [all((folder / name).exists() for name in ("norms.parquet", "adapter")) for folder in collected["folder"]]
    first = collected[kept].drop_duplicates(["method", "task"]).groupby("method").head(2)
    frame, bad, _ = symmetry_of_runs(first)
    assert not bad and set(frame["method"]) == {
        "lora",
        "lora_r4",
        "symlora",
        "symlora_no_lambda",
        "symlora_orthonormal",
    }
    for run in first.to_dict("records"):
        keys = ["task", "method", "configuration", "seed"]
        rows = frame[(frame[keys] == [run[key] for key in keys]).all(axis=1)]
        stored = pd.read_parquet(run["folder"] / "norms.parquet").assign(layer=lambda frame: frame["layer"] + 1)
        both = rows.merge(stored, on=["layer", "projection"], suffixes=("", "_stored"))
        assert len(both) == len(stored) > 0
        for name in ("symmetric_share", "positive", "negative"):
            assert both[name].to_numpy() == pytest.approx(both[f"{name}_stored"].to_numpy(), abs=1e-5)


@pytest.mark.skipif(not RELEASED.is_file(), reason="LoRA's released checkpoint is not next to this repository")
def test_released_lora_is_no_more_symmetric_than_chance() -> None:
    # Computed by hand: 50.0 and 50.1 % symmetric; 46.1 and 42.8 % captured.
    frame = symmetry_of_checkpoint(RELEASED)
    assert len(frame) == 24 and set(frame["layer"]) == set(range(1, 13)) and set(frame["rank"]) == {8}
    means: Any = frame.groupby("projection")[["symmetric_share", "captured", "captured_rotated"]].mean()
    assert means.loc["query"].to_list()[:2] == pytest.approx([0.500, 0.461], abs=0.0005)
    assert means.loc["value"].to_list()[:2] == pytest.approx([0.501, 0.428], abs=0.0005)
    # ... which is what its singular values alone give: the directions add nothing.
    assert (means["captured"] - means["captured_rotated"]).abs().max() < 0.002
