"""Import of a package that only one model needs, with the install command where it is missing."""

from __future__ import annotations

import importlib
import warnings
from types import ModuleType

from campaign.errors import MissingDependencyError

__all__ = ["import_optional", "package_version"]


def import_optional(module: str, model: str, extra: str) -> ModuleType:
    """Return an imported module; what the package warns of while it is imported is its own business.

    Raises:
        MissingDependencyError: it, or something that it imports, is not installed; the text has the install command.

    >>> import_optional("json", "demo", "demo").__name__
    'json'
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return importlib.import_module(module)
    except ImportError as error:
        raise MissingDependencyError(
            f"model {model!r} needs the package {module.partition('.')[0]!r}, whose import failed: {error}. "
            f"Install it with: pip install 'relax-campaign[{extra}]'"
        ) from error


def package_version(distribution: str) -> str:
    """Return the version of an installed distribution."""
    from importlib.metadata import version

    return version(distribution)
