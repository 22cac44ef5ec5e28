from __future__ import annotations

from typing import Any


def save(*a: Any) -> None: ...
