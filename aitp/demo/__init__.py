"""The other side of every wire, as real HTTP servers on loopback: task API, authorization server, provider.

Used by `aitp demo`, by the tests and by the benchmarks; never by the service itself. They behave as the services
do in production, take faults to order (`faults.py`) and keep a record of every request. Threads are allowed here,
and only here: a server must go on while the test that drives it waits.
"""
