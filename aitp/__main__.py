"""`python -m aitp` is the command `aitp`."""

import signal

if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
    # Nothing is begun before a command runs (see `help`): Ctrl-C may end the process, without a trace of imports.
    signal.signal(signal.SIGINT, signal.SIG_DFL)

from aitp.commands.cli import main

main()
