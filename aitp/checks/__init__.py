"""`aitp check`: what is wrong with settings, machine and services, why it matters, and what to do.

First facts are gathered (`machine`, `asking`), then judged: a judgement is a pure function from facts to findings
(`verdicts`, `answers`, `clock`). Safe beside a running service: nothing is claimed, bought or written, and each server
is asked for what costs nothing. `check` puts it all together.
"""
