"""The report: REPORT.md, its plots, and the figures of README.md, from the result files."""
