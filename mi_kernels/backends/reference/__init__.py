"""The slow, plain arithmetic that every kernel is compared with, bit for bit."""
