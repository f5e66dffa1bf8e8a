"""Post-filters: a second look at a model's estimates, with the mixture beside them.

The table of post-filters: name of the option -> where the function stands. Each one is

    foo(mixture [C, T], estimates [S, C, T], *, sample_rate, iterations, residual) -> [S, C, T]

on one window of audio; `windowed.py` runs it over a stream.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module

from torch import Tensor

from unmixcli.errors import OptionError

POSTFILTERS: dict[str, str] = {
    "softmask": "unmixcli.postfilters.softmask:softmask",
    "logit": "unmixcli.postfilters.logit:logit",
    "wiener": "unmixcli.postfilters.wiener:wiener",
    "em": "unmixcli.postfilters.em:em",
}


def postfilter_function(name: str) -> Callable[..., Tensor]:
    """The function of a post-filter.

    Raises:
        OptionError: no row of that name.
    """
    if name not in POSTFILTERS:
        raise OptionError(f"the post-filter {name!r} is not known; known are none, {', '.join(POSTFILTERS)}.")
    module, _, attribute = POSTFILTERS[name].partition(":")
    found: Callable[..., Tensor] = getattr(import_module(module), attribute)
    return found
