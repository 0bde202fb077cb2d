"""Inject faults: nothing is lost, nothing broken is counted, and every message is clear.

`make faults` runs all of it (python -m faults, from tests/), tests/test_faults.py the quick part. Every try is a forked
child of one process that has imported everything once, so that a run takes about a second.

    session     counts the tries and judges what they show
    children    starts a command in a forked child, kills it at a moment, keeps what it printed
    points      ends the child, or makes a call fail, exactly before the k-th call that changes the disk
    places      the tiny encoder and the runs that are tried on
    runs        what of a results folder must be equal, must not be lost, must not be there twice
    kills       single runs and packs, killed at random moments and at every point
    sweeps      several processes on one sweep
    disks       full and blocked disks, clocks that jump
    damage      damaged and odd versions of a file's content
    files       damaged versions of every file that is read
    overrides   made-up settings
"""
