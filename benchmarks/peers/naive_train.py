"""What a team writes for itself: a network on iris with Hydra, Fabric, scikit-learn and MLflow.

One script, its imports at the top, each library used as its own documentation shows it: a Hydra
configuration, scikit-learn's loader, split, scaler and metrics, a ``DataLoader`` loop on Lightning
Fabric, and an MLflow run on SQLite with the parameters, the metrics of each epoch and the final
ones. With ``plots=true`` and ``log_model=true`` it also logs what the project logs by default:
a loss curve, and a confusion matrix, ROC and precision-recall curves for two splits, by pyplot; and
the model, by ``mlflow.pytorch.log_model`` with a signature.

    python -m benchmarks.peers.naive_train training.max_epochs=1
"""

from __future__ import annotations

from dataclasses import dataclass, field

import hydra
import matplotlib.pyplot as plt
import mlflow
import numpy as np
import pandas as pd
import torch
from hydra.core.config_store import ConfigStore
from lightning.fabric import Fabric, seed_everything
from mlflow.models import infer_signature
from omegaconf import OmegaConf
from sklearn.calibration import CalibrationDisplay
from sklearn.datasets import load_iris
from sklearn.metrics import (
    ConfusionMatrixDisplay,
    PrecisionRecallDisplay,
    RocCurveDisplay,
    accuracy_score,
    balanced_accuracy_score,
    f1_score,
    log_loss,
    roc_auc_score,
)
from sklearn.model_selection import train_test_split
from sklearn.preprocessing import StandardScaler
from torch import nn
from torch.utils.data import DataLoader, TensorDataset


@dataclass
class ModelConfig:
    hidden: list[int] = field(default_factory=lambda: [64, 64])
    dropout: float = 0.0


@dataclass
class TrainingConfig:
    max_epochs: int = 1
    batch_size: int = 32
    lr: float = 1e-3
    weight_decay: float = 0.0


@dataclass
class Config:
    model: ModelConfig = field(default_factory=ModelConfig)
    training: TrainingConfig = field(default_factory=TrainingConfig)
    seed: int = 42
    experiment_name: str = "iris"
    tracking_uri: str = "sqlite:///mlflow.db"
    plots: bool = False
    log_model: bool = False


ConfigStore.instance().store(name="naive", node=Config)


def load_splits(seed: int) -> dict[str, pd.DataFrame]:
    table: pd.DataFrame = load_iris(as_frame=True).frame
    rest, test = train_test_split(table, test_size=0.2, random_state=seed, stratify=table["target"])
    train, val = train_test_split(rest, test_size=0.25, random_state=seed, stratify=rest["target"])
    scaler = StandardScaler().fit(train.drop(columns="target"))
    splits = {}
    for name, part in (("train", train), ("val", val), ("test", test)):
        features = scaler.transform(part.drop(columns="target"))
        splits[name] = pd.DataFrame(features, columns=part.columns[:-1]).assign(
            target=part["target"].to_numpy()
        )
    return splits


def make_loader(split: pd.DataFrame, batch_size: int, *, shuffle: bool = False) -> DataLoader:
    X = torch.tensor(split.drop(columns="target").to_numpy(), dtype=torch.float32)
    y = torch.tensor(split["target"].to_numpy(), dtype=torch.int64)
    return DataLoader(TensorDataset(X, y), batch_size=batch_size, shuffle=shuffle)


def make_model(config: ModelConfig, n_features: int, n_classes: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    width = n_features
    for hidden in config.hidden:
        layers += [nn.Linear(width, hidden), nn.ReLU(), nn.Dropout(config.dropout)]
        width = hidden
    return nn.Sequential(*layers, nn.Linear(width, n_classes))


@torch.no_grad()
def predict(model: nn.Module, loader: DataLoader) -> np.ndarray:
    model.eval()
    return torch.cat([model(X).softmax(dim=1) for X, _ in loader]).cpu().numpy()


def judge(y: np.ndarray, probabilities: np.ndarray) -> dict[str, float]:
    predicted = probabilities.argmax(axis=1)
    return {
        "loss": float(log_loss(y, probabilities)),
        "accuracy": float(accuracy_score(y, predicted)),
        "balanced_accuracy": float(balanced_accuracy_score(y, predicted)),
        "f1_macro": float(f1_score(y, predicted, average="macro")),
        "roc_auc": float(roc_auc_score(y, probabilities, multi_class="ovr")),
    }


def log_figure(name: str) -> None:
    plt.tight_layout()
    mlflow.log_figure(plt.gcf(), f"plots/{name}.png")
    plt.close()


def log_plots(split: str, y: np.ndarray, probabilities: np.ndarray) -> None:
    ConfusionMatrixDisplay.from_predictions(y, probabilities.argmax(axis=1))
    log_figure(f"{split}_confusion_matrix")
    for name, display in (("roc", RocCurveDisplay), ("precision_recall", PrecisionRecallDisplay)):
        _, axes = plt.subplots()
        for code in range(probabilities.shape[1]):
            display.from_predictions(y == code, probabilities[:, code], ax=axes, name=str(code))
        log_figure(f"{split}_{name}")
    right = probabilities.argmax(axis=1) == y
    CalibrationDisplay.from_predictions(right, probabilities.max(axis=1), n_bins=10)
    log_figure(f"{split}_calibration")


@hydra.main(config_path=None, config_name="naive")
def main(cfg: Config) -> None:
    seed_everything(cfg.seed, verbose=False)
    fabric = Fabric(accelerator="auto", devices=1)
    splits = load_splits(cfg.seed)
    n_features = splits["train"].shape[1] - 1
    model = make_model(cfg.model, n_features, splits["train"]["target"].nunique())
    optimizer = torch.optim.Adam(
        model.parameters(), lr=cfg.training.lr, weight_decay=cfg.training.weight_decay
    )
    model, optimizer = fabric.setup(model, optimizer)
    loaders = {
        name: fabric.setup_dataloaders(
            make_loader(split, cfg.training.batch_size, shuffle=name == "train")
        )
        for name, split in splits.items()
    }
    loss_function = nn.CrossEntropyLoss()

    mlflow.set_tracking_uri(cfg.tracking_uri)
    mlflow.set_experiment(cfg.experiment_name)
    with mlflow.start_run():
        config = OmegaConf.to_container(OmegaConf.structured(cfg), resolve=True)
        mlflow.log_params(pd.json_normalize(config).iloc[0].to_dict())
        mlflow.log_dict(config, "config.yaml")
        history = []
        for epoch in range(1, cfg.training.max_epochs + 1):
            model.train()
            total = 0.0
            for X, y in loaders["train"]:
                optimizer.zero_grad()
                loss = loss_function(model(X), y)
                fabric.backward(loss)
                optimizer.step()
                total += loss.item() * len(X)
            val = judge(splits["val"]["target"].to_numpy(), predict(model, loaders["val"]))
            row = {"train_loss": total / len(splits["train"]), "val_loss": val["loss"]}
            mlflow.log_metrics(row, step=epoch)
            history.append(row)
            print(
                f"epoch {epoch}: " + ", ".join(f"{key} {value:.4f}" for key, value in row.items())
            )
        for name, split in splits.items():
            y = split["target"].to_numpy()
            probabilities = predict(model, DataLoader(loaders[name].dataset, batch_size=256))
            metrics = judge(y, probabilities)
            mlflow.log_metrics({f"{name}_{key}": value for key, value in metrics.items()})
            if cfg.plots and name != "train":
                log_plots(name, y, probabilities)
        if cfg.plots:
            pd.DataFrame(history).plot(marker="o", xlabel="epoch", ylabel="loss")
            log_figure("loss_curve")
        torch.save(model.module.state_dict(), "model.pt")
        if cfg.log_model:
            example = splits["train"].drop(columns="target").head().to_numpy(dtype=np.float32)
            signature = infer_signature(example, predict(model, [(torch.tensor(example), None)]))
            mlflow.pytorch.log_model(
                model.module, name="model", signature=signature, input_example=example
            )


if __name__ == "__main__":
    main()
