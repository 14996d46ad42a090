"""The rows of benchmarks/reliability.py, a module each, and what they share."""
