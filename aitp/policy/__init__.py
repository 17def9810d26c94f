"""Pure decisions: no clock, no ledger, no network. Whoever calls passes the time and the facts, and acts on the answer."""
