# /// script
# requires-python = ">=3.11,<3.12"
# dependencies = [
#     "mlflow==3.17.2",
#     "numpy==2.4.6",
#     "safetensors==0.8.0",
#     "scikit-learn==1.9.1",
#     "skops==0.16.0",
#     "torch==2.15.0",
# ]
# ///
"""``mlflow models serve``, of a model of MLflow's own kind made from the same files."""

import os
import sys
from pathlib import Path


def prepare(folder: Path) -> None:
    """Save the model as MLflow does, by its code and its files."""
    import mlflow

    mlflow.pyfunc.save_model(
        folder / "model",
        python_model=__file__,
        artifacts={"model": os.environ["MODEL_DIR"]},
        code_paths=[str(Path(__file__).with_name("_model.py"))],
        pip_requirements=[],
    )


if __name__ != "__main__":
    import mlflow
    from _model import Model

    class Iris(mlflow.pyfunc.PythonModel):
        def load_context(self, context):
            self.model = Model(context.artifacts["model"])

        def predict(self, context, model_input, params=None):  # noqa: ARG002
            return self.model.answer(model_input)

    mlflow.models.set_model(Iris())


if __name__ == "__main__":
    work = Path(os.environ["WORK"])
    if sys.argv[1:] == ["prepare"]:
        prepare(work)
    else:
        programs = Path(sys.executable).parent
        # The command starts uvicorn by its name.
        os.environ["PATH"] = f"{programs}{os.pathsep}{os.environ['PATH']}"
        program = str(programs / "mlflow")
        place = ["--host", "127.0.0.1", "--port", os.environ["PORT"]]
        model = ["-m", str(work / "model"), "--env-manager", "local"]
        os.execv(program, [program, "models", "serve", *model, *place])
