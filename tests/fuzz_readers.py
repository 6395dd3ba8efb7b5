"""What atheris runs, in a process of its own: any bytes for one of `fuzz_targets`; what it raises is a fault."""

from __future__ import annotations

import importlib
import sys
from typing import Any

atheris: Any = importlib.import_module("atheris")  # it has no types

with atheris.instrument_imports(include=["fraudengine.rules", "fraudengine.request", "fraudengine.cards"]):
    from .fuzz_targets import TARGETS

if __name__ == "__main__":
    target = TARGETS[sys.argv.pop(1)]
    atheris.Setup(sys.argv, target)
    atheris.Fuzz()
