"""Write tables, figures and the audit from run folders: `symlora report`, from a checkout."""

import sys

from symlora.cli import main

if __name__ == "__main__":
    sys.argv.insert(1, "report")
    main()
