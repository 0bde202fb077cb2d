"""`make bench`: this trainer beside Hugging Face's Trainer with PEFT, on the same rows, on the whole machine, in turn.

work.py      which rows every configuration trains on, and in which batches
ours.py      our training step, K runs in a pack
baseline.py  Trainer + PEFT LoRA, padded to the maximal length or to each batch's longest row
flops.py     the FLOPs that a step cannot do without
peak.py      the matmul rate of this machine
workers.py   processes that do the work at the same time, and what memory they took
measure.py   rounds of all of it, interleaved
growth.py    how a step grows with length and with layers
record.py    the record: ratios, shares and bounds, from the measurements
table.py     the record as text
"""
