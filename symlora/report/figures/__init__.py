"""Draw the figures: norms and λ, paired differences, grids and costs."""
