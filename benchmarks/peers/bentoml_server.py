# /// script
# requires-python = ">=3.11,<3.12"
# dependencies = [
#     "bentoml==1.4.40",
#     "numpy==2.4.6",
#     "safetensors==0.8.0",
#     "scikit-learn==1.9.1",
#     "skops==0.16.0",
#     "torch==2.15.0",
# ]
# ///
"""BentoML, as it comes or with batching."""

import os
import sys
from pathlib import Path
from typing import Any

if __name__ != "__main__":
    import bentoml
    import numpy as np
    from _model import Model

    @bentoml.service
    class Iris:
        def __init__(self) -> None:
            self.model = Model()

        @bentoml.api
        def predict(self, features: list[list[float]]) -> dict[str, Any]:
            return self.model.answer(features)

    @bentoml.service
    class Batched:
        def __init__(self) -> None:
            self.model = Model()

        @bentoml.api(batchable=True, max_batch_size=1000)
        def predict(self, features: np.ndarray) -> list[dict[str, Any]]:
            answer = self.model.answer(features)
            both = zip(answer["predictions"], answer["probabilities"], strict=True)
            return [{"prediction": name, "probabilities": chances} for name, chances in both]


if __name__ == "__main__":
    program = str(Path(sys.executable).with_name("bentoml"))
    service = "Batched" if os.environ.get("VARIANT") == "batching" else "Iris"
    here = Path(__file__).parent
    place = [f"--working-dir={here}", "--host=127.0.0.1", f"--port={os.environ['PORT']}"]
    os.execv(program, [program, "serve", f"{Path(__file__).stem}:{service}", *place])
