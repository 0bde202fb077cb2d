"""Build an encoder with head and adapter, ready for flat batches."""
