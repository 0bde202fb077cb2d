"""Train many runs: packs as a Hydra launcher, and the study of grid, selection and seeds."""
