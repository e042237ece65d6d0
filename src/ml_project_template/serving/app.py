"""The HTTP application of one saved model, made from its model directory alone."""

import logging
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, JsonValue, create_model

from ml_project_template.data import Feature
from ml_project_template.errors import DataError
from ml_project_template.predictor import Predictor

__all__ = ["create_app"]

log = logging.getLogger(__name__)


def create_app(predictor: Predictor) -> FastAPI:
    """Make the application that answers for a model.

    Args:
        predictor: A loaded model with its preprocessing and class names.

    Returns:
        An ASGI application with ``/health``, ``/ready``, ``/info``, ``/predict`` and ``/docs``. The
        schema of a request names the model's features and has a sample row that works.
    """
    request_schema, response_schema = _schemas(predictor)
    app = FastAPI(title=f"{predictor.name} on {predictor.signature.target}", version="1")

    @app.get("/health")
    async def health() -> dict[str, str]:
        """Say that the process is alive."""
        return {"status": "ok"}

    @app.get("/ready")
    async def ready() -> dict[str, str]:
        """Say that the model is loaded; the application is not made before it is."""
        return {"status": "ready"}

    @app.get("/info")
    async def info() -> dict[str, Any]:
        """Describe the model: its name, features, classes and metrics."""
        return predictor.info()

    # Annotations are values here, not text: FastAPI reads the schemas made above.
    # Without `async`, so that a long request leaves /health answering.
    @app.post("/predict", response_model=response_schema)
    def predict(body: request_schema) -> dict[str, Any]:  # type: ignore[valid-type]
        """Predict the class of each row, with the probability of every class."""
        rows: list[Any] = body.features  # type: ignore[attr-defined]
        prediction = predictor.predict(rows)
        return {
            "predictions": prediction.labels,
            "probabilities": [
                dict(zip(prediction.class_names, row, strict=True))
                for row in prediction.probabilities.tolist()
            ],
        }

    @app.exception_handler(DataError)
    async def refuse(_request: Request, error: DataError) -> JSONResponse:
        return JSONResponse({"detail": str(error)[:_LONGEST_ANSWER]}, status_code=422)

    @app.exception_handler(RequestValidationError)
    async def refuse_schema(_request: Request, error: RequestValidationError) -> JSONResponse:
        # FastAPI's own answer repeats the input, which may be large or no JSON (NaN).
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"][:4])
        return JSONResponse(
            {"detail": f"{place}: {first['msg']}"[:_LONGEST_ANSWER]}, status_code=422
        )

    return app


_LONGEST_ANSWER = 2_000


def _schemas(predictor: Predictor) -> tuple[type[BaseModel], type[BaseModel]]:
    """Make the schemas of a request and an answer out of the model's signature."""
    sample = predictor.sample[:1]
    in_order: list[JsonValue] = [[row[name] for name in predictor.feature_names] for row in sample]
    config = ConfigDict(extra="forbid", json_schema_extra={"example": {"features": in_order}})
    features = "; ".join(
        f"{feature.name} ({feature.type}{_seen(feature)})"
        for feature in predictor.signature.features[:50]
    )
    description = f"Raw rows, as lists in this order or as objects by name: {features}"
    request_schema = create_model(
        "PredictRequest",
        __config__=config,
        features=(
            list[list[FiniteFloat | None] | dict[str, FiniteFloat | None]],
            Field(min_length=1, description=description),
        ),
    )
    response_schema = create_model(
        "PredictResponse",
        predictions=(list[str], Field(description="The most probable class of each row")),
        probabilities=(
            list[dict[str, float]],
            Field(description="The probability of each class, in [0, 1], for each row"),
        ),
    )
    return request_schema, response_schema


def _seen(feature: Feature) -> str:
    """Say between which values a feature lay in training, if it had any."""
    if feature.min is None or feature.max is None:
        return ""
    return f", {feature.min:g} to {feature.max:g} in training"
