"""The processes: a master that keeps children in their slots, what each of them does, and supervisord around it.

Plain Unix: fork, signals, locks, exit codes. The master speaks to no network and opens no ledger; what relays and
workers do is handed to it as a table of functions (`child.Roles`, made by `service.roles`).
"""
