"""Many trainings as one whole: claimed, resumed, pruned and compared. Optuna stands here alone."""
