"""Train one run or one pack, from configuration to run folder."""
