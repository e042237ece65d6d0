"""``POST /predict``: rows as JSON in, classes and probabilities, or numbers, out."""

from __future__ import annotations

from typing import Any

from ml_project_template.serving.http import Answer, Endpoint, Request
from ml_project_template.serving.routes import HotRoute, json_answer, refusals
from ml_project_template.serving.served import ServedModels

__all__ = ["routes"]


def routes(models: ServedModels) -> list[HotRoute]:
    """Declare the addresses: ``/predict`` for the default model, one below its name for each."""

    def route(name: str, path: str, label: str) -> HotRoute:
        return HotRoute(
            "POST", path, label, _predict(models, name), lambda: _operation(models, name)
        )

    return [
        route(models.default, "/predict", "/predict"),
        *(
            route(name, f"/models/{name}/predict", "/models/{name}/predict")
            for name in models.names
        ),
    ]


def _predict(models: ServedModels, name: str) -> Endpoint:
    async def predict(request: Request) -> Answer:
        model = models[name]
        rows = model.contract.decode(request.body)
        return Answer(model.contract.encode(await model.probabilities(rows)))

    return predict


def _operation(models: ServedModels, name: str) -> dict[str, Any]:
    contract = models[name].contract
    signature = contract.signature
    description = "Predict the class of each row, with the probability of every class."
    if signature.task == "regression":
        description = f"Predict '{signature.target}', a number, for each row."
    if any(feature.levels is not None for feature in signature.features):
        description += (
            " A category may be null, or a value that the training did not have: both count as "
            "missing."
        )
    return {
        "summary": f"Predict with {name}",
        "description": description,
        "tags": ["predict"],
        "requestBody": {
            "required": True,
            "content": {
                "application/json": {
                    "schema": contract.request_schema(),
                    "example": {"features": [contract.sample_row()]},
                }
            },
        },
        "responses": {
            "200": json_answer("The predictions, a row each", contract.response_schema()),
            **refusals(400, 408, 413, 422, 429),
        },
    }
