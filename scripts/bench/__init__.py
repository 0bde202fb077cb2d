"""Compare this trainer with Hugging Face's Trainer and PEFT: `.venv/bin/python scripts/bench`."""
