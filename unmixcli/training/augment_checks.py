"""Checks of what a recipe gives to augmentations."""

from __future__ import annotations


def check_range(low_name: str, low: float, high_name: str, high: float, least: float, most: float) -> None:
    """Raise ValueError unless least <= low <= high <= most."""
    if not least <= low <= high <= most:
        raise ValueError(f"{high_name} is {high:g} and {low_name} is {low:g}, expected {least:g} to {most:g} in order")


def check_share(name: str, share: float) -> None:
    """Raise ValueError unless it is 0 to 1."""
    if not 0 <= share <= 1:
        raise ValueError(f"{name} is {share:g}, expected 0 to 1")
