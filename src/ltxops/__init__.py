"""Provision and operate guarded LTX-2 video hosts."""

__version__ = "0.1.0"
