"""Fixtures of the fault tests: real online stores."""

from tests.features.serving.stores import online, redis_address, redis_url

__all__ = ["online", "redis_address", "redis_url"]
