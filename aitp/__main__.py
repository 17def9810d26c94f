"""`python -m aitp` is the command `aitp`."""

import os
import signal
import sys

from aitp import journal

if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
    # Nothing is begun before a command runs (see `help`): Ctrl-C may end the process, without a trace of imports.
    signal.signal(signal.SIGINT, signal.SIG_DFL)

journal.mark_errors()
if sys.argv[1:2] in (["run"], ["master"], ["metrics"]):
    # A stop that comes while all of it is still being imported is one in order as well.
    signal.signal(signal.SIGTERM, lambda *_: os._exit(0))

from aitp.commands import importing  # noqa: E402

with importing():
    from aitp.commands.cli import main

main()
