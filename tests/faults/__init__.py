"""Inject faults: nothing is lost, nothing broken is counted, and every message is clear.

`make faults` runs all of it (python -m faults, from tests/), tests/test_faults.py the quick part. Every try is a forked
child of one process that has imported everything once, so that a run takes about a second.
"""
