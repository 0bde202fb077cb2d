"""`hydra/launcher=packed`, in the one namespace from which Hydra takes plugins. It is symlora.sweep.launcher's."""

from symlora.sweep import launcher


class SymloraPackedLauncher(launcher.PackedLauncher):
    """Trains the jobs of a multirun in packs."""
