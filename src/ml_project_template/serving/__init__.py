"""A saved model over HTTP."""

from ml_project_template.serving.app import create_app

__all__ = ["create_app"]
