"""Errors that a user can correct: each is one sentence that names the setting, file or case and what would be right."""


class UserError(Exception):
    """Something the user gave is wrong; a command prints `str(error)`, one sentence, and exits with status 2."""


class SettingError(UserError):
    """A setting is unknown, missing, of the wrong type, or contradicts another."""


class CaseError(UserError):
    """One subject's files cannot be used; the cohort is made without it."""


class StoreError(UserError):
    """A store is missing, damaged, in use, or was made with other settings."""
