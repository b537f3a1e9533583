"""Provision and operate guarded LTX-2 video hosts."""

from importlib.metadata import version

__version__ = version("ltxops")
