"""Options that the commands of `im2latex kubeflow` share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Host = Annotated[
    str | None,
    typer.Option(
        envvar=["KF_PIPELINES_ENDPOINT", "KFP_ENDPOINT"],
        help="Address of Kubeflow Pipelines. Default: the pod's cluster, or the kubeconfig.",
        metavar="URL",
    ),
]
Namespace = Annotated[
    str | None,
    typer.Option(envvar="KFP_NAMESPACE", help="Namespace, for clusters with several users.", metavar="NAME"),
]
TokenFile = Annotated[
    Path | None,
    typer.Option(
        envvar="KF_PIPELINES_SA_TOKEN_PATH",
        help="File with the token, read again for each request. KFP_EXISTING_TOKEN takes the token itself.",
        metavar="FILE",
    ),
]
CaCert = Annotated[
    Path | None,
    typer.Option(
        envvar=["SSL_CERT_FILE", "REQUESTS_CA_BUNDLE"],
        help="CA certificates to trust, in PEM format.",
        metavar="FILE",
    ),
]
PipelineRoot = Annotated[
    str | None,
    typer.Option(
        help="Folder for artifacts: gs://, s3:// or minio://. Default: kubeflow.pipeline_root.",
        metavar="ADDRESS",
    ),
]
Experiment = Annotated[
    str | None,
    typer.Option(
        envvar="KF_PIPELINES_DEFAULT_EXPERIMENT_NAME",
        help="Experiment for the run, created if missing. Default: the name of the pipeline.",
        metavar="NAME",
    ),
]
Parameters = Annotated[
    list[str] | None,
    typer.Option("--param", help="Pipeline parameter; repeatable.", metavar="NAME=VALUE"),
]
Cache = Annotated[bool, typer.Option(help="Reuse outputs that were made from the same inputs, settings and code.")]
Pause = Annotated[
    float, typer.Option("--every", help="Seconds between two requests for the state of the run.", min=0.01)
]
RunId = Annotated[str | None, typer.Argument(help="Run id. Default: the last run of this pipeline.", metavar="RUN")]
