"""Checks the section `kubeflow`: whether required knobs are set, and whether the pods can read the records."""

from __future__ import annotations

from typing import TYPE_CHECKING

from im2latex.errors import UserError
from kubeflow.addresses import bucket, names_folder
from pipeline.buckets import is_address
from pipeline.lineage.address import PASSWORD

if TYPE_CHECKING:
    from pipeline.config import Config
    from pipeline.config.sections import KubeflowConfig

_KEYS = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")
_REGION = "AWS_REGION"
_NEEDED = {
    "image": "the image that kubeflow/Dockerfile makes, as the cluster pulls it",
    "volume": "the claim of a volume for the served models and the state of unfinished trainings",
    "data": "where the TFRecords are: a folder on the volume, or gs://, s3:// or minio://",
}


def check_settings(config: KubeflowConfig, *further: str) -> None:
    """Checks that the image (with a version), the volume and the `further` knobs are set.

    Raises:
        UserError: a knob is not set, or the image has no version.
    """
    for knob in ("image", "volume", *further):
        if not getattr(config, knob):
            raise UserError(f"kubeflow.{knob} is not set: {_NEEDED[knob]}; set it in the --config file or with --set")
    if ":" not in config.image.rpartition("/")[2]:
        raise UserError(
            f"kubeflow.image = {config.image!r} has no version, so a run could not be repeated; "
            "add a tag (:1.0) or, better, a digest (@sha256:…)"
        )


def lists_records(config: KubeflowConfig) -> bool:
    """Returns whether the pods list the bucket to detect changed records, so that the launcher need not download it."""
    if not is_address(config.data):
        return False
    return config.detect_changes == "list" or (
        config.detect_changes == "auto" and not config.data.startswith("gs://") and _REGION in _variables(config)
    )


def check_records(config: KubeflowConfig, data: str) -> None:
    """Checks that the pods can read the records.

    Args:
        config: the section `kubeflow`.
        data: folder of the records: kubeflow.data, or the run's parameter `data`.

    Raises:
        UserError: the address is not valid, or credentials are missing.
    """
    if not is_address(data):
        if not data.startswith(f"{config.mount}/"):
            raise UserError(
                f"kubeflow.data = {data!r} is not on the volume; "
                f"give a folder under {config.mount}, or gs://, s3:// or minio://"
            )
        return
    if not names_folder(data):
        raise UserError(f"kubeflow.data = {data!r} is a bucket; give a folder in it, such as {bucket(data)}/records")
    if data.startswith("gs://"):
        return
    variables = _variables(config)
    keys = [key for key in _KEYS if key in variables]
    if keys and (len(keys) < len(_KEYS) or _REGION not in variables):
        missing = next(name for name in (*_KEYS, _REGION) if name not in variables)
        knob = "secrets" if missing in _KEYS else "environment"
        raise UserError(f"the pods have {keys[0]} but no {missing}; set it in kubeflow.{knob}")
    root = config.pipeline_root
    if root and bucket(root) != bucket(data) and _REGION not in variables:
        raise UserError(
            f"kubeflow.data = {data!r} is in another bucket than the pipeline root {root}, and the launcher has "
            "credentials only for the bucket of the root; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY in "
            "kubeflow.secrets, AWS_REGION and, for a store that is not Amazon's, AWS_ENDPOINT_URL in "
            "kubeflow.environment (AWS_REGION alone if the pods have a role)"
        )


def check_metadata(config: Config) -> None:
    """Checks that the configuration does not contain the password of the database.

    Raises:
        UserError: it contains the password.
    """
    if config.metadata.connection and PASSWORD in config.kubeflow.environment:
        raise UserError(
            f"kubeflow.environment contains {PASSWORD}; put it in a secret and name that in kubeflow.secrets"
        )


def moved_root(config: KubeflowConfig, before: str) -> str:
    """Returns a warning if cached outputs are in another bucket, which the launcher cannot read; "" if all is well.

    Args:
        config: the section `kubeflow`; its `pipeline_root` is that of the next run.
        before: pipeline root of the last run.
    """
    readable = before.startswith("gs://") or _REGION in _variables(config)
    if not before or not config.pipeline_root or readable or bucket(before) == bucket(config.pipeline_root):
        return ""
    return (
        f"the pipeline root was {before}, and outputs in the cache still lie there: the launcher has credentials for "
        f"{bucket(config.pipeline_root)} alone, and tasks that take such outputs will fail; give --no-cache once"
    )


def _variables(config: KubeflowConfig) -> set[str]:
    return {*config.secrets, *config.environment}
