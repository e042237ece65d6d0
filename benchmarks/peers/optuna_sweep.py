"""A search as a team writes it by hand: Optuna and MLflow in one process, with batched logging.

    python optuna_sweep.py 50

The same network, data, space, sampler and pruner as ``sweep=mlp data=iris``. The training is a
plain loop on tensors in memory; each trial is a run below one run, whose parameters and metrics go
to MLflow in one request, and leaves its best weights in a file. Runs in the current folder.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

import mlflow
import numpy as np
import optuna
import torch
from mlflow.entities import Metric, Param, RunTag
from sklearn.datasets import load_iris
from sklearn.model_selection import train_test_split
from torch import nn

EPOCHS, PATIENCE = 100, 20
WIDTHS = {"32": [32], "64,64": [64, 64], "128,128": [128, 128]}


def load() -> list[torch.Tensor]:
    """Read the rows: 60 % for the training, 20 % for the validation, standardised."""
    X, y = load_iris(return_X_y=True)
    X, _, y, _ = train_test_split(X, y, test_size=0.2, random_state=42, stratify=y)
    X, X_val, y, y_val = train_test_split(X, y, test_size=0.25, random_state=42, stratify=y)
    mean, scale = X.mean(axis=0), X.std(axis=0)
    scaled = [((part - mean) / scale).astype(np.float32) for part in (X, X_val)]
    return [torch.from_numpy(part) for part in (scaled[0], y, scaled[1], y_val)]


def network(widths: list[int], dropout: float) -> nn.Sequential:
    """Make the network, with its hidden widths."""
    layers: list[nn.Module] = []
    for before, width in zip([4, *widths], widths, strict=False):
        layers += [nn.Linear(before, width), nn.ReLU(), nn.Dropout(dropout)]
    return nn.Sequential(*layers, nn.Linear(widths[-1], 3))


class Search:
    """The search, and where its runs go."""

    def __init__(self) -> None:
        self.data = load()
        self.client = mlflow.MlflowClient("sqlite:///mlflow.db")
        self.experiment = self.client.create_experiment("iris")
        self.parent = self.client.create_run(self.experiment, run_name="search").info.run_id

    def objective(self, trial: optuna.Trial) -> float:
        """Train one network and log it."""
        settings = {
            "lr": trial.suggest_float("lr", 1e-4, 1e-1, log=True),
            "weight_decay": trial.suggest_float("weight_decay", 1e-6, 1e-2, log=True),
            "batch_size": trial.suggest_categorical("batch_size", [16, 32, 64]),
            "dropout": trial.suggest_float("dropout", 0.0, 0.5),
            "widths": trial.suggest_categorical("widths", list(WIDTHS)),
        }
        tags = {"mlflow.parentRunId": self.parent}
        run = self.client.create_run(self.experiment, tags=tags).info.run_id
        metrics: list[Metric] = []
        state = "complete"
        try:
            return self.train(trial, settings, metrics)
        except optuna.TrialPruned:
            state = "pruned"
            raise
        finally:
            params = [Param(key, str(value)) for key, value in settings.items()]
            told = [RunTag("trial_state", state)]
            self.client.log_batch(run, metrics=metrics, params=params, tags=told)
            self.client.set_terminated(run)

    def train(
        self, trial: optuna.Trial, settings: dict[str, float | str], metrics: list[Metric]
    ) -> float:
        """Train one network; returns its lowest validation loss."""
        X, y, X_val, y_val = self.data
        torch.manual_seed(42)
        model = network(WIDTHS[str(settings["widths"])], float(settings["dropout"]))
        optimizer = torch.optim.Adam(
            model.parameters(),
            lr=float(settings["lr"]),
            weight_decay=float(settings["weight_decay"]),
        )
        loss_function = nn.CrossEntropyLoss()
        best, best_weights, waited = float("inf"), model.state_dict(), 0
        for epoch in range(1, EPOCHS + 1):
            model.train()
            total = 0.0
            for rows in torch.randperm(len(X)).split(int(settings["batch_size"])):
                optimizer.zero_grad()
                loss = loss_function(model(X[rows]), y[rows])
                loss.backward()
                optimizer.step()
                total += loss.item() * len(rows)
            model.eval()
            with torch.no_grad():
                outputs = model(X_val)
                val_loss = float(loss_function(outputs, y_val))
                accuracy = float((outputs.argmax(dim=1) == y_val).float().mean())
            now = int(time.time() * 1000)
            row = {"train_loss": total / len(X), "val_loss": val_loss, "val_accuracy": accuracy}
            metrics += [Metric(name, value, now, epoch) for name, value in row.items()]
            if val_loss < best:
                best, waited = val_loss, 0
                best_weights = {k: v.clone() for k, v in model.state_dict().items()}
            else:
                waited += 1
            if epoch == 1 or epoch % 4 == 0:
                trial.report(val_loss, epoch)
                if trial.should_prune():
                    raise optuna.TrialPruned
            if waited >= PATIENCE:
                break
        torch.save(best_weights, Path(f"trial_{trial.number}.pt"))
        metrics.append(Metric("best_val_loss", best, int(time.time() * 1000), 0))
        return best


def main() -> None:
    """Run the search of so many trials."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    # What is quickest for matrices of this size.
    torch.set_num_threads(1)
    search = Search()
    study = optuna.create_study(
        sampler=optuna.samplers.TPESampler(seed=42),
        pruner=optuna.pruners.MedianPruner(n_startup_trials=8, n_warmup_steps=10),
    )
    study.optimize(search.objective, n_trials=int(sys.argv[1]))
    search.client.set_terminated(search.parent)


if __name__ == "__main__":
    main()
