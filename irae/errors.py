"""The error for what a caller of irae can fix."""

from __future__ import annotations


class IRAEError(ValueError):
    """An input, a configuration or a checkpoint that irae cannot use: one sentence with what, which value, what to do."""
