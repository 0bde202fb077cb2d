"""Train many runs: packs in a Hydra launcher, and studies."""
