"""Serving: the start of an engine on a merge, and changes of lam while it runs."""
