"""A pre-trained encoder with a classification head and an adapter, ready to train on flat batches."""
