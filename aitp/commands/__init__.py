"""What the commands print, and what they do on an operator's behalf: one room a command, or a few that belong together.

`--json` prints what programs read; otherwise there are tables for people. The service need not be running, unless a
room says so. Nothing here is imported before its command runs.
"""
