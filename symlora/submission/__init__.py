"""Make and check the GLUE server's zip: eleven files of predictions.

The format is the one that the benchmark's own code writes (nyu-mll/jiant, jiant/scripts/benchmarks/benchmarks.py;
nyu-mll/GLUE-baselines, src/main.py): tab-separated, a header, rows numbered from 0 in test order, no folder inside.
"""
