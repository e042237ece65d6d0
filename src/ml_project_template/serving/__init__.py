"""A saved model over HTTP."""

from ml_project_template.serving.app import ModelServer, create_app
from ml_project_template.serving.served import ModelSource, load_model
from ml_project_template.serving.settings import ServerSettings

__all__ = ["ModelServer", "ModelSource", "ServerSettings", "create_app", "load_model"]
