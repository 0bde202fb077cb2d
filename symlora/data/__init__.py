"""Data: from GLUE files to batches of token numbers.

    readers  one split from whatever shape it comes in                 (pyarrow, csv, datasets, huggingface_hub)
    splits   rows of text and label, checked and cut                   (numpy)
    tokens   one split as flat integer arrays, cached                  (numpy, safetensors)
    batches  flat batches for training and evaluation                  (numpy, torch)
    demo     small generated tasks with GLUE's schema

Nothing is imported here: the training core takes `tokens` and `batches` on machines that have no pyarrow or datasets.
"""
