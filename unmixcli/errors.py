"""What can go wrong, as types.

The library raises these and never prints; the command line turns them into one message and an exit code.
Every message holds what happened, the value, and what was expected; `hint` holds the next step.
"""

from __future__ import annotations


class UnmixError(Exception):
    """Base of everything unmixcli raises on purpose.

    Args:
        message: what went wrong, with the value and what was expected.
        hint: what to do next, one sentence; shown on a line of its own.
    """

    exit_code = 1

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.hint = hint


class OptionError(UnmixError):
    """An option, a stem or a combination of options that can't be used."""

    exit_code = 2


class InputError(UnmixError):
    """An input file that can't be read, is not audio, or is damaged."""


class OutputError(UnmixError):
    """An output that can't be written, or that did not verify after writing."""


class RegistryError(UnmixError):
    """A registry file or entry that breaks the schema."""


class UnknownModelError(OptionError):
    """A model name that no registry holds."""


class DownloadError(UnmixError):
    """A file that could not be fetched, or whose size or hash is not the registry's."""


class CheckpointError(UnmixError):
    """A weights file that is refused (unsafe) or does not fit the network."""


class ModelError(UnmixError):
    """A model that gave no usable result (NaN on every device, wrong shape)."""


class DeviceError(UnmixError):
    """A device that was asked for and is not there."""
