"""What responses show: scores with intervals, the three stages, and which lam to take."""
