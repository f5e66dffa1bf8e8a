"""Where files live: the cache (can be deleted at any time) and the user's own models (can't)."""

from __future__ import annotations

import os
from pathlib import Path

import platformdirs


def cache_folder() -> Path:
    """`UNMIX_CACHE`, or the platform's cache folder. Not created here."""
    named = os.environ.get("UNMIX_CACHE")
    return Path(named).expanduser() if named else Path(platformdirs.user_cache_dir("unmixcli", appauthor=False))


def config_folder() -> Path:
    """`UNMIX_CONFIG`, or the platform's configuration folder. Not created here."""
    named = os.environ.get("UNMIX_CONFIG")
    return Path(named).expanduser() if named else Path(platformdirs.user_config_dir("unmixcli", appauthor=False))


def weights_folder(entry_name: str) -> Path:
    """Cache folder of an entry's downloaded files."""
    return cache_folder() / "models" / entry_name


def tensors_folder() -> Path:
    """Cache folder of checkpoints converted to safetensors, named by the sha256 of the file they came from."""
    return cache_folder() / "tensors"


def user_models_folder() -> Path:
    """Folder of the user's own registry entries, one `NAME.json` and a folder `NAME/` of weights each."""
    return config_folder() / "models"
