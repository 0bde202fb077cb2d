"""Training: the optimizer, the loop, and what they measure. Needs torch, numpy, transformers and peft alone."""
