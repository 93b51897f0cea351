"""Many lam between two models: merge, evaluate, on one machine or on a Ray cluster."""
