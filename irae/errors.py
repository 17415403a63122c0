"""The error that a caller of irae can fix."""

from __future__ import annotations


class IRAEError(ValueError):
    """Unusable input, configuration or checkpoint: one sentence with what, which value, what to do."""
