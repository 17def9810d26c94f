"""The processes: a master that keeps children in their slots, and what a child knows of itself.

Plain Unix: fork, signals, locks, exit codes. Nothing here speaks to the network or to the ledger; what relays and
workers do is handed in as a table of functions (`roles.Roles`).
"""
