from __future__ import annotations

from tests.features.annotators.model_server.asking_servers import serving, shared

__all__ = ["serving", "shared"]
