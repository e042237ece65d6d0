# /// script
# requires-python = ">=3.11,<3.12"
# dependencies = [
#     "litserve==0.2.19",
#     "numpy==2.4.6",
#     "safetensors==0.8.0",
#     "scikit-learn==1.9.1",
#     "skops==0.16.0",
#     "torch==2.15.0",
# ]
# ///
"""LitServe, as it comes or with batching."""

import os

import litserve
import numpy as np
from _model import Model


class Iris(litserve.LitAPI):
    def setup(self, device):  # noqa: ARG002
        self.model = Model()

    def decode_request(self, request):
        return request["features"]

    def predict(self, rows):
        return self.model.answer(rows)

    def encode_response(self, answer):
        return answer


class Batched(Iris):
    def batch(self, requests):
        return requests

    def predict(self, requests):
        ends = np.cumsum([len(rows) for rows in requests])[:-1]
        together = self.model.probabilities(np.concatenate(requests))
        return [self.model.tell(part) for part in np.split(together, ends)]

    def unbatch(self, answers):
        return answers


if __name__ == "__main__":
    # Without a time to wait for others it batches next to nothing.
    batched = os.environ.get("VARIANT") == "batching"
    api = Batched(max_batch_size=64, batch_timeout=0.001) if batched else Iris()
    server = litserve.LitServer(api, accelerator="cpu", workers_per_device=1)
    server.run(host="127.0.0.1", port=int(os.environ["PORT"]), generate_client_file=False)
