"""`python -m aitp` is the command `aitp`."""

from aitp.cli import main

main()
