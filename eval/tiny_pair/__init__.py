"""An Instruct and a Thinking model of 0.83 M parameters each, trained from scratch in minutes. See README.md."""
