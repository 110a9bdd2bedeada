"""Options that the commands of `im2latex kubeflow` share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Host = Annotated[
    str | None,
    typer.Option(
        envvar=["KF_PIPELINES_ENDPOINT", "KFP_ENDPOINT"],
        help="Address of Kubeflow Pipelines; if not given, that of the pod's cluster or of the kubeconfig.",
        metavar="URL",
    ),
]
Namespace = Annotated[
    str | None,
    typer.Option(envvar="KFP_NAMESPACE", help="Namespace, on a cluster with several users.", metavar="NAME"),
]
TokenFile = Annotated[
    Path | None,
    typer.Option(
        envvar="KF_PIPELINES_SA_TOKEN_PATH",
        help="File with the token, read again for each request; a token alone goes into KFP_EXISTING_TOKEN.",
        metavar="FILE",
    ),
]
CaCert = Annotated[
    Path | None,
    typer.Option(
        envvar=["SSL_CERT_FILE", "REQUESTS_CA_BUNDLE"],
        help="Certificates of the authority that signed the server's.",
        metavar="FILE",
    ),
]
PipelineRoot = Annotated[
    str | None,
    typer.Option(
        help="Where the artifacts go: gs://, s3:// or minio://; if not given, kubeflow.pipeline_root says it.",
        metavar="ADDRESS",
    ),
]
Experiment = Annotated[
    str | None,
    typer.Option(
        envvar="KF_PIPELINES_DEFAULT_EXPERIMENT_NAME",
        help="Experiment of the run, made if there is none; if not given, named as the pipeline.",
        metavar="NAME",
    ),
]
Parameters = Annotated[
    list[str] | None,
    typer.Option("--param", help="A parameter of the pipeline; repeatable.", metavar="NAME=VALUE"),
]
Cache = Annotated[bool, typer.Option(help="Reuse what was made from the same inputs, settings and code.")]
Pause = Annotated[float, typer.Option("--every", help="Seconds between two looks at the run.", min=0.01)]
RunId = Annotated[
    str | None, typer.Argument(help="Id of a run; if not given, the last of this pipeline.", metavar="RUN")
]
