"""How good the answers are: labelled texts through the processors, compared with what people expected of them.

`aitp eval` is the way in (`evaluation`). Texts and their labels are in bench/quality. Nothing here takes part in the
service: no task API, no processes, and no ledger of its.
"""
