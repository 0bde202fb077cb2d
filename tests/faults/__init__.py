"""Fault injection: nothing is lost, nothing broken is counted, and what is wrong is said in one clear message.

`make faults` runs all of it (python -m faults, from tests/), tests/test_faults.py the quick part. Every try is a forked
child of one process that has imported everything once, so that a whole run takes about a second.

    children    starts scripts/*.py in a forked child, kills it at a moment, keeps what it printed
    points      ends the child, or makes a call fail, exactly before or after the k-th call that changes the disk
    places      the tiny encoder and the runs that are tried on
    runs        what of a results folder must be equal, must not be lost, must not be there twice
    kills       single runs and packs, killed at random moments and at every point
    sweeps      real sweeps with worker processes, killed with all of them; several processes on one sweep
    disks       full and read-only disks, clocks that jump
    judge       whether a command's answer to bad input is clear
    files       damaged versions of every file that is read
    odd         content that can be read and is odd; locks that other processes hold
    overrides   made-up settings
    tables      made-up data files
"""
