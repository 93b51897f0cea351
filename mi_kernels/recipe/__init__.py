"""Recipes: lam, masks and rules; merges of several models by any method; mergekit's configurations."""
