"""The group `fraudengine keys`: API keys (`access`) and the card key of fingerprints add their commands to it."""

from __future__ import annotations

import click


@click.group()
def keys() -> None:
    """API keys (create, list, revoke) and the card key of fingerprints (rotate, status, retire)."""
