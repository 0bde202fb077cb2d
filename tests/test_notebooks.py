"""Run the notebooks, and compare their outputs with the committed ones.

.venv/bin/python -m pytest tests/test_notebooks.py -m docs --overwrite    writes new outputs
"""

import re
from pathlib import Path
from typing import Any

import nbformat
import pytest
from conftest import ROOT
from nbclient import NotebookClient

NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
SECONDS = 240


def said(notebook: Any) -> list[str]:
    """Join the text of each cell's outputs, without addresses."""
    cells = [cell.outputs for cell in notebook.cells if cell.cell_type == "code"]
    parts = [[{"text/plain": output.get("text"), **output.get("data", {})} for output in cell] for cell in cells]
    texts = ["".join(str(part.get("text/markdown") or part["text/plain"]) for part in cell) for cell in parts]
    return [re.sub(r"0x[0-9a-f]+", "0x", text) for text in texts]


@pytest.mark.docs
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebooks_say_what_they_said(path: Path, pytestconfig: pytest.Config, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "PYTHONWARNINGS": "ignore"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("MPLBACKEND", raising=False)
    notebook = nbformat.read(path, as_version=4)  # type: ignore[no-untyped-call]
    committed = said(notebook)
    client = NotebookClient(notebook, timeout=SECONDS, coalesce_streams=True, record_timing=False)
    client.execute(cwd=str(path.parent))
    if pytestconfig.getoption("overwrite"):
        notebook.metadata.language_info = {"name": "python"}  # no versions
        nbformat.write(notebook, path)  # type: ignore[no-untyped-call]
    else:
        assert said(notebook) == committed, "the outputs are old: --overwrite writes new ones"
    assert str(ROOT) not in path.read_text() and "site-packages" not in path.read_text()
