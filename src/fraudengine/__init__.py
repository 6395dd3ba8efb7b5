"""fraudengine screens card payments against each merchant's rules before they are authorised.

In a notebook, without a server:

    from fraudengine import load_rules, screen

    rules = load_rules("rules")
    screen(rules, {"merchant": "carthage-market", "transaction_id": "T-1", "amount": "450.000",
                   "currency": "TND", "card": {"masked_pan": "411111******1111"}, "ip_address": "41.226.11.9"})
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .embedded import Rules, load_rules, screen

__all__ = ["Rules", "load_rules", "screen"]


def __getattr__(name: str) -> object:
    """Loads the public names on first use, so that importing one module does not import all."""
    if name in __all__:
        from . import embedded

        return getattr(embedded, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
