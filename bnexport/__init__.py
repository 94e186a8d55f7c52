"""bnexport takes a trained TensorFlow 1.x network, batch norm and all, out of TensorFlow."""

from typing import TYPE_CHECKING, Any

from bnexport._version import __version__

if TYPE_CHECKING:
    from bnexport.conversion import convert
    from bnexport.errors import BnexportError
    from bnexport.options import Options
    from bnexport.runner import Model, load

__all__ = ["BnexportError", "Model", "Options", "__version__", "convert", "load"]

_HOMES = {
    "BnexportError": "bnexport.errors",
    "Model": "bnexport.runner",
    "load": "bnexport.runner",
    "Options": "bnexport.options",
    "convert": "bnexport.conversion",
}


def __getattr__(name: str) -> Any:
    """Public names are imported when they are used, so that evaluating a bundle does not import what converting needs, nor the reverse."""
    if name in _HOMES:
        from importlib import import_module

        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'bnexport' has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
