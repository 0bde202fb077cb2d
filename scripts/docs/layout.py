"""Lay out the site of `make docs`: pages at their paths in the repository, and the API reference."""

from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parents[2]
# What the pages link to; the site holds it at the same place.
SHOWN = (
    *("*.md", "CITATION.cff", "docs/*", "configs/**/*.yaml"),
    *("results/*.md", "results/leaderboard/*.md", "results/tables/*.md", "results/figures/*/differences.svg"),
)
REFERENCE = {
    "SymLoRA and the other adapters": ("symlora.adapters.symlora", "symlora.adapters.layer", "symlora.adapters.tuner"),
    "Export": ("symlora.interchange.to_lora", "symlora.interchange.to_symlora", "symlora.interchange.base_scale"),
    "Configuration": ("symlora.config.schema", "symlora.config.compose", "symlora.config.identity"),
    "Training": ("symlora.training.loop", "symlora.training.optimizer", "symlora.runner.run"),
    "Packs": ("symlora.model.pack", "symlora.model.encoder", "symlora.model.dropout"),
    "Run folders": ("symlora.store.folder", "symlora.store.locks", "symlora.store.verify"),
    "Metrics": ("symlora.metrics",),
    "Statistics": ("symlora.stats.intervals", "symlora.stats.tests", "symlora.stats.bootstrap"),
    "Report": ("symlora.report.collect", "symlora.report.choice", "symlora.report.comparison", "symlora.report.tables"),
}


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """List the reference's pages in the navigation."""
    assert config.nav is not None
    config.nav[-1] = {"Reference": [{title: page(title)} for title in REFERENCE]}
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Replace the files of docs/ by those of the repository."""
    for file in list(files.documentation_pages()) + list(files.media_files()):
        if file.src_dir == config.docs_dir:
            files.remove(file)
    for path in sorted({path for pattern in SHOWN for path in ROOT.glob(pattern) if path.is_file()}):
        files.append(File.generated(config, path.relative_to(ROOT).as_posix(), abs_src_path=str(path)))
    files.append(File.generated(config, "site.css", abs_src_path=str(Path(__file__).with_name("site.css"))))
    for title, modules in REFERENCE.items():
        text = "\n\n".join([f"# {title}", *(f"::: {module}" for module in modules)])
        files.append(File.generated(config, page(title), content=text))
    return files


def page(title: str) -> str:
    """Name the page of a part of the reference."""
    return f"reference/{title.lower().replace(' ', '-')}.md"
