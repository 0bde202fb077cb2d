"""`python -m symlora` is the command `symlora`."""

from symlora.cli import main

main()
