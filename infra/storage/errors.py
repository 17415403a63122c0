"""Errors that a user can fix: one sentence (or a line for each problem) with what, which value, what to do.

Every other exception is a defect and keeps its traceback.
"""

from __future__ import annotations


class UserError(ValueError):
    """A mistake of the user: commands print it without a traceback and exit with code 2."""


class StorageError(UserError):
    """A URL, or the storage behind it, that cannot be used."""
