"""`symlora export` for a checkout: an adapter as a merged model, a LoRA or a SymLoRA."""

import sys

from symlora.cli import main

if __name__ == "__main__":
    main(["export", *sys.argv[1:]])
