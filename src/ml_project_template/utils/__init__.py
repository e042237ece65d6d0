"""What every layer may use: files, directories, seeds, names, argument checks, git, secrets."""

from ml_project_template.utils import arguments, directories, git, io, names, secrets, seed

__all__ = ["arguments", "directories", "git", "io", "names", "secrets", "seed"]
