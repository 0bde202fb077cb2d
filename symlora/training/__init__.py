"""Train runs. Needs torch, numpy, transformers and peft alone."""
