# /// script
# requires-python = ">=3.11,<3.12"
# dependencies = [
#     "mlserver==1.7.1",
#     "numpy==2.4.6",
#     "safetensors==0.8.0",
#     "scikit-learn==1.9.1",
#     "skops==0.16.0",
#     "torch==2.15.0",
#     "uvloop==0.21.0",  # its worker process fails under later ones
# ]
# ///
"""MLServer: as it comes, without its worker process, or that with adaptive batching too."""

import json
import os
import sys
from pathlib import Path

if __name__ != "__main__":
    from _model import Model
    from mlserver import MLModel
    from mlserver.codecs import NumpyCodec, StringCodec
    from mlserver.types import InferenceRequest, InferenceResponse

    class Iris(MLModel):
        async def load(self) -> bool:
            self.model = Model()
            return True

        async def predict(self, payload: InferenceRequest) -> InferenceResponse:
            probabilities = self.model.probabilities(NumpyCodec.decode_input(payload.inputs[0]))
            labels = self.model.labels(probabilities)
            return InferenceResponse(
                model_name=self.name,
                outputs=[
                    StringCodec.encode_output("predictions", labels),
                    NumpyCodec.encode_output("probabilities", probabilities),
                ],
            )


def prepare(folder: Path) -> None:
    """Write the settings of the server and of the model."""
    variant = os.environ.get("VARIANT")
    settings = {"host": "127.0.0.1", **({"parallel_workers": 0} if variant else {})}
    model = {"name": "iris", "implementation": f"{Path(__file__).stem}.Iris"}
    if variant == "batching":
        model |= {"max_batch_size": 64, "max_batch_time": 0.001}
    (folder / "settings.json").write_text(json.dumps(settings))
    (folder / "model-settings.json").write_text(json.dumps(model))


if __name__ == "__main__":
    work = Path(os.environ["WORK"])
    if sys.argv[1:] == ["prepare"]:
        prepare(work)
    else:
        program = str(Path(sys.executable).with_name("mlserver"))
        os.environ["PYTHONPATH"] = str(Path(__file__).parent)
        port = int(os.environ["PORT"])
        for what, number in (("HTTP", port), ("GRPC", port + 1), ("METRICS", port + 2)):
            os.environ[f"MLSERVER_{what}_PORT"] = str(number)
        os.execv(program, [program, "start", str(work)])
