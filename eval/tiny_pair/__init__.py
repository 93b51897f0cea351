"""A real Instruct and Thinking pair of 0.83 M parameters each, trained from scratch in minutes. See README.md."""
