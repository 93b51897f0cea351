"""The pytest plugin of the in-memory benchmarks. It is here because pytest reads options only at the top."""

from .memory.pytest_plugin import measure, pytest_addoption, pytest_configure, pytest_terminal_summary

__all__ = ["measure", "pytest_addoption", "pytest_configure", "pytest_terminal_summary"]
