"""Searches the weights of a merge: the front of accuracy against tokens. See eval/README.md, "Search"."""
