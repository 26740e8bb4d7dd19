"""The version of this library, said here alone."""

__version__ = "2.0.0"
