"""The libraries and programs that only the synthesis of training data needs, asked for when they are used."""

from __future__ import annotations

import importlib.util
import shutil
from functools import lru_cache
from importlib import import_module
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path
from typing import Any

from unmixcli.errors import OptionError, UnmixError

SOUND_FONTS = (
    "/usr/share/sounds/sf2/FluidR3_GM.sf2",
    "/usr/share/sounds/sf2/default-GM.sf2",
    "/usr/share/soundfonts/FluidR3_GM.sf2",
)
_EXTRA_HINT = 'pip install "unmixcli[synthesis]"'


@lru_cache(maxsize=8)
def need(name: str) -> Any:
    """A Python library of the extra `synthesis`.

    Raises:
        UnmixError: it isn't installed.
    """
    try:
        return _pyworld() if name == "pyworld" else import_module(name)
    except ImportError as error:
        raise UnmixError(f"synthesis needs {name}, which isn't installed.", hint=_EXTRA_HINT) from error


def _pyworld() -> Any:
    """The compiled part of pyworld alone: its `__init__` needs pkg_resources, which setuptools no longer has, and uses
    it only to say its version."""
    package = importlib.util.find_spec("pyworld")
    folders = list(package.submodule_search_locations or ()) if package else []
    for folder in folders:
        for suffix in EXTENSION_SUFFIXES:
            file = Path(folder) / f"pyworld{suffix}"
            spec = importlib.util.spec_from_file_location("pyworld.pyworld", file) if file.is_file() else None
            if spec is not None and spec.loader is not None:
                module = importlib.util.module_from_spec(spec)
                spec.loader.exec_module(module)
                return module
    raise ImportError("pyworld")


def sound_font(asked: str) -> Path | None:
    """The sound font to play: "none" is none, "auto" the one Debian installs, else a file.

    Raises:
        OptionError: the file isn't there.
        UnmixError: the program or the sound font isn't installed.
    """
    if asked == "none":
        return None
    hint = "apt-get install fluidsynth fluid-soundfont-gm, or --sound-font none for the built-in synthesizer alone."
    if shutil.which("fluidsynth") is None:
        raise UnmixError("the program fluidsynth, which plays sound fonts, isn't installed.", hint=hint)
    if asked != "auto":
        if not Path(asked).is_file():
            raise OptionError(f"--sound-font {asked}: there is no such file.", hint="auto, none, or an .sf2 file.")
        return Path(asked)
    for candidate in SOUND_FONTS:
        if Path(candidate).is_file():
            return Path(candidate)
    raise UnmixError(f"no General MIDI sound font found (looked for {', '.join(SOUND_FONTS)}).", hint=hint)
