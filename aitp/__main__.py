"""`python -m aitp` is the command `aitp`."""

import os
import signal
import sys

from aitp.commands import importing

if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
    # Nothing is begun before a command runs (see `help`): Ctrl-C may end the process, without a trace of imports.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
if sys.argv[1:2] in (["run"], ["master"], ["metrics"]):
    # A stop that comes while all of it is still being imported is one in order as well.
    signal.signal(signal.SIGTERM, lambda *_: os._exit(0))

with importing():
    if "JOURNAL_STREAM" in os.environ:  # else whoever only looks would load the log for nothing
        from aitp.logs import mark_errors

        mark_errors()
    from aitp.commands.cli import main

main()
