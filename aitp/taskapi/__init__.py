"""The task API side: its client and its token. Only relays use it."""
