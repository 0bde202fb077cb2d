"""Train one adapter on one GLUE task: `symlora train`, from a checkout. `--help` lists every setting."""

import sys

from symlora.cli import main

if __name__ == "__main__":
    sys.argv.insert(1, "train")
    main()
