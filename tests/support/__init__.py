"""Helpers that tests of several folders share. No test module imports another test module."""

from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]  # of the repository
