"""The service as a whole is looked at here too, from outside."""

from tests.end_to_end.conftest import service

__all__ = ["service"]
