"""Draw the figures: norms and λ, paired differences, and the grids of learning rate and batch size."""
