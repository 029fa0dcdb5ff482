"""The errors that a user can mend: one sentence each, naming the setting, file or case and what would be right."""


class UserError(Exception):
    """Something the user gave is wrong; `str(error)` is the one sentence that a command prints before it exits with 2."""


class SettingError(UserError):
    """A setting is unknown, ill-typed, missing or does not go with another."""


class CaseError(UserError):
    """One subject's files cannot be used; the cohort goes on without it."""


class StoreError(UserError):
    """A cohort store is absent, damaged, or made by another recipe."""
