"""Draw the figures: norms and λ, paired differences, and grids."""
