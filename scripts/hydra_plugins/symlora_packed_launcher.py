"""Register `hydra/launcher=packed` and the resolver `cuda_device`: Hydra imports plugins from this namespace alone."""

from hydra.core.config_search_path import ConfigSearchPath
from hydra.plugins.search_path_plugin import SearchPathPlugin

from symlora.config import compose
from symlora.sweep import launcher


class SymloraSelected(SearchPathPlugin):
    """Find what an installed package has selected in the current folder, before what it came with."""

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        """Put the folder first, if it is there."""
        folder = compose.BEST_DIR.parent
        if folder != compose.CONFIG_DIR and folder.is_dir():
            search_path.prepend("symlora", f"file://{folder.absolute()}", "main")


class SymloraPackedLauncher(launcher.PackedLauncher):
    """Train the jobs of a multirun in packs."""
