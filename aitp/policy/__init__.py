"""Pure decisions: no clock, no ledger, no network. Whoever calls passes time and facts, and acts on the answer."""
