"""The chaos suite: the real stack under supervisord, faults by seed number, and a checker that judges what happened.

    bin/test --chaos --runs 200 --seed 1     200 schedules, from seed 1 on; a failure prints the command that repeats it
    bin/test --soak --minutes 5              full speed with faults: memory, descriptors and files must stay flat

`schedule.py` draws what is to happen, `stage.py` and `acts.py` make it happen. `stack.py` starts the service with fault
points, a journal and a clock that can be set; the service's own code has none of them. `gathering.py` collects what was
seen on the far side of the wires and in the ledger, `checker.py` judges it. docs/RELIABILITY.md says what is promised.
"""
