"""The audit of the SymLoRA paper: what follows from the numbers that it and LoRA printed.

Every number and every verdict is computed here from results/published/*.yaml; none is typed.
"""

from collections.abc import Sequence
from pathlib import Path

from symlora.report import audit_intervals, audit_method, audit_scores
from symlora.report.finding import Finding, Grid, Status
from symlora.report.published import Published, read_published

__all__ = ["Finding", "Grid", "Status", "audit", "audit_folder", "audit_markdown"]

SEED = 0  # of the random matrices for the ratio of norms


def audit(published: Published, seed: int = SEED) -> list[Finding]:
    """All findings, in the order of the report."""
    return [
        *audit_intervals.findings(published),
        *audit_scores.findings(published),
        *audit_method.findings(published, seed),
    ]


def audit_folder(folder: Path, seed: int = SEED) -> list[Finding]:
    """audit of the files in results/published.

    Raises:
        SymloraError: A file is missing or a value in it wrong; the message names file and key.
    """
    return audit(read_published(folder), seed)


def audit_markdown(findings: Sequence[Finding]) -> str:
    """The page results/audit.md: an overview, then claim, arithmetic, verdict and source of each finding."""
    lines = [
        "# What the paper printed",
        "",
        'An audit of "Towards Symmetric Low-Rank Adapters" (arXiv 2504.03719) from printed numbers alone: no training,',
        "no run of ours. Made by `make audit` from results/published/; every number below is computed from there.",
        "",
        *_table(
            Grid(
                ("finding", "the claim"),
                tuple((f"[{finding.title}](#{finding.key})", finding.status) for finding in findings),
            )
        ),
    ]
    for finding in findings:
        lines += [
            "",
            f'<a id="{finding.key}"></a>',
            "",
            f"## {finding.title}",
            "",
            f"**Claim.** {finding.claim}",
            "",
            f"**Arithmetic.** {finding.arithmetic}",
        ]
        for grid in finding.grids:
            lines += ["", *_table(grid)]
        lines += [
            "",
            f"**Verdict: the claim {_sentence(finding.status)}.** {finding.verdict}",
            "",
            f"Source: {finding.source}",
        ]
    return "\n".join(lines) + "\n"


def _sentence(status: Status) -> str:
    return "is undecided" if status == "undecided" else status


def _table(grid: Grid) -> list[str]:
    def line(cells: Sequence[str]) -> str:
        return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"

    return [line(grid.header), line(["---"] * len(grid.header)), *map(line, grid.rows)]
