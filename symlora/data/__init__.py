"""Data: from GLUE files to batches of token numbers.

    splits   rows of text and label, read from a folder, the hub or the demo grammar, and checked   (pyarrow, datasets)
    tokens   one split as flat integer arrays, cached                                               (numpy, safetensors)
    batches  flat batches for training and evaluation                                               (numpy, torch)
    demo     small generated tasks with GLUE's schema

Nothing is imported here: the training core takes `tokens` and `batches` on machines that have no pyarrow or datasets.
"""
