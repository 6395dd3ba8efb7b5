"""The HTTP face: a thin adapter from requests to the screener, and the only importer of fastapi."""

from .app import ScreenerPort, create_app

__all__ = ["ScreenerPort", "create_app"]
