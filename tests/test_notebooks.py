"""The notebooks run as they stand, and what is committed of their outputs is what they say now.

.venv/bin/python tests/test_notebooks.py    executes them in place, when runs or code have changed
"""

from __future__ import annotations

import re
import tempfile
from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbclient import NotebookClient

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
SECONDS = 60  # each, on a machine that has nothing else to do


def executed(path: Path, monkeypatch: pytest.MonkeyPatch, seconds: int) -> Any:
    """The notebook with fresh outputs, run from its own folder by this very Python, whatever kernels a user has."""
    notebook: Any = nbformat.read(path, as_version=4)  # type: ignore[no-untyped-call]
    with tempfile.TemporaryDirectory() as home:
        for name in ("IPYTHONDIR", "JUPYTER_CONFIG_DIR", "JUPYTER_RUNTIME_DIR"):
            monkeypatch.setenv(name, home)
        for name, value in {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "PYTHONWARNINGS": "ignore"}.items():
            monkeypatch.setenv(name, value)
        monkeypatch.delenv("MPLBACKEND", raising=False)
        client = NotebookClient(
            notebook,
            timeout=seconds,
            kernel_name="python3",
            record_timing=False,  # no time of day in the file
            coalesce_streams=True,  # one output however the kernel flushed it
            resources={"metadata": {"path": str(path.parent)}},
        )
        client.execute()
    notebook.metadata = {
        "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
        "language_info": {"name": "python"},
    }
    return notebook


def said(notebook: Any) -> list[list[str]]:
    """What each cell's outputs say, pictures apart."""
    return [
        ["".join(output.get("text", "") or output.get("data", {}).get("text/markdown", "") or _plain(output))]
        for cell in notebook.cells
        if cell.cell_type == "code"
        for output in cell.outputs
    ]


def _plain(output: Any) -> str:
    text: str = output.get("data", {}).get("text/plain", "")
    return re.sub(r"0x[0-9a-f]+", "0x", text)


def pictures(notebook: Any) -> int:
    return sum("image/png" in output.get("data", {}) for cell in notebook.cells for output in cell.get("outputs", []))


def test_there_are_three() -> None:
    assert [path.name[0] for path in NOTEBOOKS] == ["1", "2", "3"]


@pytest.mark.notebooks
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_committed_outputs_are_what_the_notebook_says_now(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    committed: Any = nbformat.read(path, as_version=4)  # type: ignore[no-untyped-call]
    code = [cell for cell in committed.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1)), "not executed from top to bottom"
    text = "\n".join([cell.source for cell in committed.cells] + [part for cell in said(committed) for part in cell])
    for private in (str(ROOT), f"{Path.home()}/", "site-packages", "/tmp/"):
        assert private not in text, f"{path.name} names a place on somebody's machine: {private}"
    fresh = executed(path, monkeypatch, 4 * SECONDS)  # other tests run beside this one
    refresh = "outputs are old; run: .venv/bin/python tests/test_notebooks.py"
    assert said(fresh) == said(committed), refresh
    assert pictures(fresh) == pictures(committed), refresh
    assert not any(output.get("name") == "stderr" for cell in code for output in cell.outputs)


if __name__ == "__main__":
    for place in NOTEBOOKS:
        with pytest.MonkeyPatch.context() as patch:
            nbformat.write(executed(place, patch, 10 * SECONDS), place)  # type: ignore[no-untyped-call]
        print(place.relative_to(ROOT))
