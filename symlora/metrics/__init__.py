"""Compute GLUE's metrics."""
