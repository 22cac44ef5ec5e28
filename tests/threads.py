"""Work in several threads at once, which are switched so often that what is not guarded shows."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable
from typing import Any


def at_once(work: Callable[[], Any], interval: float, many: int = 4) -> None:
    """Runs `work` in many threads, switched every `interval` seconds, to their ends."""
    threads = [threading.Thread(target=work) for _ in range(many)]
    before = sys.getswitchinterval()
    sys.setswitchinterval(interval)
    try:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(before)
