# /// script
# requires-python = ">=3.11,<3.12"
# dependencies = [
#     "numpy==2.4.6",
#     "orjson==3.13.0",
#     "safetensors==0.8.0",
#     "scikit-learn==1.9.1",
#     "skops==0.16.0",
#     "torch==2.15.0",
#     "uvicorn[standard]==0.54.0",
# ]
# ///
"""As little as there can be around a model in Python: one ASGI function that checks nothing."""

import os
import sys

import orjson
import uvicorn
from _model import Model

model = Model()


async def app(scope, receive, send):
    if scope["type"] != "http":
        return
    body = b""
    more = True
    while more:
        message = await receive()
        body += message.get("body", b"")
        more = message.get("more_body", False)
    answer = orjson.dumps(model.answer(orjson.loads(body)["features"]))
    headers = [
        (b"content-type", b"application/json"),
        (b"content-length", str(len(answer)).encode()),
    ]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": answer})


if __name__ == "__main__":
    port = int(os.environ["PORT"])
    sys.exit(uvicorn.run(app, port=port, lifespan="off", access_log=False, log_level="warning"))
