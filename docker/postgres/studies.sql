-- Of sweeps; MLflow and Optuna keep the state of their tables under the same name.
CREATE DATABASE studies;
