"""The HTTP face: a thin adapter from requests to the screener, and the only importer of fastapi."""

from .app import ScreenerPort, create_app
from .gate import AccessPort

__all__ = ["AccessPort", "ScreenerPort", "create_app"]
