"""Operating system: system calls that Python does not offer, their errors, signals, the progress bar."""
