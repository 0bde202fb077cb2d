"""A submission to the GLUE server: eleven files of test predictions in one zip, made from run folders and checked.

The format is the one that the benchmark's own code writes (nyu-mll/jiant, jiant/scripts/benchmarks/benchmarks.py;
nyu-mll/GLUE-baselines, src/main.py): tab-separated, a header, rows numbered from 0 in test order, no folder inside.
"""
