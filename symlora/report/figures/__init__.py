"""Draw the figures: norms and λ, paired differences, grids, curves and costs."""
