"""Draw the figures: norms and λ, paired differences, grids, curves and costs.

One function of a module makes the frame that a figure shows, another draws it, from the frame or from its CSV. There
`whose` is for the title, and `note` is what must be shown with this model's numbers.
"""
