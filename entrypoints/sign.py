"""Sign a model that was looked at, or see who has signed one."""

from __future__ import annotations

from omegaconf import DictConfig

from entrypoints._shell import entrypoint, run
from entrypoints.onboard import storage_options
from ml_project_template.errors import ConfigError

__all__ = ["sign", "verify"]


def sign(cfg: DictConfig) -> str:
    """Sign the model of ``cfg.model.path`` with the key of ``ML_PROJECT_SIGNING_KEY``.

    Args:
        cfg: The configuration, see ``conf/sign.yaml``.

    Returns:
        One line that names the model and the key.

    Raises:
        ArtifactError: There is no model directory, or a damaged one.
        ConfigError: There is no key, or one that can't be used.
        TrackingError: The model can't be had from MLflow, or the signature can't be put there.
    """
    from ml_project_template.artifacts import MANIFEST_SIGNATURE, sign_model_directory
    from ml_project_template.signing import key_name, signing_key

    path, digests = str(cfg.model.path), []

    def sign_directory(directory: str) -> None:
        digests.append(sign_model_directory(directory, storage_options=storage_options(cfg)))

    if _is_tracked(path):
        from ml_project_template.tracking import add_to_model

        add_to_model(path, MANIFEST_SIGNATURE, sign_directory, cfg.tracking.uri)
    else:
        sign_directory(path)
    key = signing_key()
    assert key is not None, "it has signed"
    return f"Sign: {path}, version {digests[0][:12]}, by key {key_name(key.public_key())}"


def verify(cfg: DictConfig) -> str:
    """See whether a key of ``ML_PROJECT_TRUSTED_KEYS`` has signed the model of ``cfg.model.path``.

    Args:
        cfg: The configuration, see ``conf/sign.yaml``.

    Returns:
        One line that names the model and the key.

    Raises:
        ArtifactError: There is no model directory, a damaged one, or none of the keys has.
        ConfigError: There are no keys, or some that can't be used.
        TrackingError: The model can't be had from MLflow.
    """
    from ml_project_template.artifacts import digest, open_model_directory, signed_by
    from ml_project_template.signing import TRUSTED_KEYS, trusted_keys

    if not trusted_keys():
        raise ConfigError(f"{TRUSTED_KEYS}: is required to verify: the path of public keys in PEM.")
    path = source = str(cfg.model.path)
    if _is_tracked(path):
        from ml_project_template.tracking import download_model

        source = download_model(path, cfg.tracking.uri)
    with open_model_directory(source, storage_options=storage_options(cfg)) as directory:
        version, name = digest(directory)[:12], signed_by(directory)
    return f"Verify: {path}, version {version}, is signed by key {name}"


def _is_tracked(path: str) -> bool:
    return path.startswith(("runs:/", "models:/"))


@entrypoint("sign")
def main(cfg: DictConfig) -> None:
    """Run the stage from the command line."""
    if not isinstance(cfg.verify_only, bool):
        raise ConfigError(f"verify_only: must be true or false, got {cfg.verify_only!r}")
    print(verify(cfg) if cfg.verify_only else sign(cfg))


if __name__ == "__main__":
    run(main)
