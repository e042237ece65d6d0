# /// script
# requires-python = ">=3.11,<3.12"
# dependencies = [
#     "fastapi[standard]==0.165.0",
#     "numpy==2.4.6",
#     "safetensors==0.8.0",
#     "scikit-learn==1.9.1",
#     "skops==0.16.0",
#     "torch==2.15.0",
# ]
# ///
"""FastAPI as in its tutorial: models of pydantic, a function of ``def``, ``fastapi run``."""

import os
import sys
from pathlib import Path

if __name__ != "__main__":
    from _model import Model
    from fastapi import FastAPI
    from pydantic import BaseModel

    class Rows(BaseModel):
        features: list[list[float]]

    class Answer(BaseModel):
        predictions: list[str]
        probabilities: list[dict[str, float]]

    app = FastAPI()
    model = Model()

    @app.post("/predict")
    def predict(rows: Rows) -> Answer:
        return Answer(**model.answer(rows.features))


if __name__ == "__main__":
    program = str(Path(sys.executable).with_name("fastapi"))
    os.execv(
        program, [program, "run", __file__, "--host=127.0.0.1", f"--port={os.environ['PORT']}"]
    )
