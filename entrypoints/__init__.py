"""Hydra shells around the package: ``python -m entrypoints.<stage> group=choice key=value``."""
