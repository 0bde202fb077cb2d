"""Many runs: a launcher for Hydra that trains several in one pass, and the study of grid, selection and seeds.

Importing this package tells Hydra what its configuration may name: the resolver `cuda_device` and the schema of
`hydra/launcher=packed`. It loads no torch.
"""

from symlora.sweep import devices, settings

__all__ = ["devices", "settings"]
