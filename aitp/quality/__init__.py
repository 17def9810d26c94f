"""How good the answers are: labelled texts through the processors, compared with what people expected of them.

`aitp eval` is the way in (`command`). Texts and their labels are in bench/quality. Nothing here takes part in the
service: no ledger, no task API, no processes.
"""
