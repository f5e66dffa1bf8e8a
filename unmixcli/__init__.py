"""unmixcli: music source separation. Everything the `unmix` command does, as a library.

    import unmixcli
    unmixcli.separate("song.mp3", "stems/", stems=("vocals", "drums"))
    vocals = unmixcli.Separator("umxhq").separate("song.mp3").stems["vocals"]

Importing this package imports neither torch nor the audio libraries; the first call does.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from unmixcli.batch import separate_all
    from unmixcli.errors import UnmixError
    from unmixcli.karaoke import KaraokeOptions, make_karaoke
    from unmixcli.options import Options
    from unmixcli.progress import Progress
    from unmixcli.separator import Separation, Separator, separate

__version__ = "0.1.0"
__all__ = [
    "KaraokeOptions",
    "Options",
    "Progress",
    "Separation",
    "Separator",
    "UnmixError",
    "__version__",
    "make_karaoke",
    "separate",
    "separate_all",
]

_HOMES = {
    "KaraokeOptions": "unmixcli.karaoke",
    "Options": "unmixcli.options",
    "Progress": "unmixcli.progress",
    "Separation": "unmixcli.separator",
    "Separator": "unmixcli.separator",
    "UnmixError": "unmixcli.errors",
    "make_karaoke": "unmixcli.karaoke",
    "separate": "unmixcli.separator",
    "separate_all": "unmixcli.batch",
}


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'unmixcli' has no attribute {name!r}")
