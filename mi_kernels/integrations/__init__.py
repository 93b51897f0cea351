"""What other systems bring: one module each, imported where it is asked for and by nobody else."""
