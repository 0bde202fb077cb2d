"""Register `hydra/launcher=packed` and the resolver `cuda_device`: Hydra imports plugins from this namespace alone."""

from symlora.sweep import launcher


class SymloraPackedLauncher(launcher.PackedLauncher):
    """Train the jobs of a multirun in packs."""
