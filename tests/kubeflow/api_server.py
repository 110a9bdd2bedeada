"""A test server for the v2beta1 API of Kubeflow Pipelines, which accepts only valid requests.

The paths, query parameters and body models of the API are read from kfp_server_api, which is generated from it. An
invalid request is answered with 400 and added to `problems`. Answers use the same models. A run advances through a list
of frames, one for each request for it. ML Metadata is at the same address, by gRPC-Web, as in the web page.
"""

from __future__ import annotations

import contextlib
import copy
import datetime
import email
import email.policy
import inspect
import json
import re
import ssl
import threading
import time
import uuid
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

import kfp_server_api
import yaml
from ml_metadata.proto import metadata_store_service_pb2 as metadata_messages

# Paths of the API and of the web pages in the API server of Kubernetes.
KUBE_PROXY = "/api/v1/namespaces/kubeflow/services/ml-pipeline:http/proxy/"
KUBE_PROXY_OF_PAGES = "/api/v1/namespaces/kubeflow/services/ml-pipeline-ui:http/proxy"
METADATA = "/ml_metadata.MetadataStoreService/"
# The value of the API for a time that is not set.
NEVER = "0001-01-01T00:00:00Z"
BEGINNING = datetime.datetime(2026, 11, 23, 8, 0, tzinfo=datetime.timezone.utc)
SECONDS_A_STEP = 30


@dataclass(frozen=True)
class Operation:
    """An operation of the API, from the generated client."""

    name: str
    path: re.Pattern[str]
    method: str
    query: frozenset[str]
    body: str | None
    form: frozenset[str]
    answer: str


def _operations() -> Iterator[Operation]:
    for service in ("Healthz", "Experiment", "Pipeline", "PipelineUpload", "Run", "RecurringRun"):
        api = getattr(kfp_server_api, f"{service}ServiceApi")
        for name, method in inspect.getmembers(api, inspect.isfunction):
            if not name.endswith("_with_http_info"):
                continue
            source = inspect.getsource(method)
            (path, verb), *_ = re.findall(r"'(/apis/v2beta1/\S*)', '([A-Z]+)'", source)
            body = re.search(r"body_params = local_var_params\['(\w+)'\]", source)
            body_model = body and re.search(rf":type {body[1]}: (\w+)", source)
            answer = re.search(r"response_type='(\w+)'", source)
            yield Operation(
                name=name.removesuffix("_with_http_info").rpartition("_service_")[2],
                path=re.compile(re.sub(r"\\?\{(\w+)\\?\}", r"(?P<\1>[^/:]+)", path.replace(".", r"\.")) + "$"),
                method=verb,
                query=frozenset(re.findall(r"query_params\.append\(\('([\w.]+)'", source)),
                body=body_model[1] if body_model else None,
                form=frozenset(re.findall(r"local_var_files\['(\w+)'\]", source)),
                answer=answer[1] if answer else "object",
            )


OPERATIONS = tuple(_operations())


def check(value: Any, kind: str, path: str) -> None:
    """Checks a JSON value against a type of the API.

    Raises:
        ValueError: a field is unknown or has another type; the message names it.
    """
    if value is None:
        raise ValueError(f"{path} is null")
    if match := re.fullmatch(r"list\[(.*)\]", kind):
        check_is(value, list, path)
        for number, entry in enumerate(value):
            check(entry, match[1], f"{path}[{number}]")
    elif match := re.fullmatch(r"dict\(str, (.*)\)", kind):
        check_is(value, dict, path)
        for name, entry in value.items():
            check(entry, match[1], f"{path}.{name}")
    elif kind == "object":
        pass
    elif kind == "datetime":
        check_is(value, str, path)
        datetime.datetime.fromisoformat(value.replace("Z", "+00:00"))
    elif kind in ("str", "int", "bool", "float"):
        check_is(value, {"str": str, "int": int, "bool": bool, "float": float}[kind], path)
    else:
        model = getattr(kfp_server_api, kind)
        if not model.openapi_types:  # an enumeration
            if value not in model.allowable_values:
                raise ValueError(f"{path} = {value!r} is none of {', '.join(model.allowable_values)}")
            return
        check_is(value, dict, path)
        kinds = {model.attribute_map[name]: kind for name, kind in model.openapi_types.items()}
        for name, entry in value.items():
            if name not in kinds:
                raise ValueError(f"{path}.{name} is not a field of {kind}")
            check(entry, kinds[name], f"{path}.{name}")


def check_is(value: Any, kind: type, path: str) -> None:
    """Checks a JSON value against a Python type; a boolean is not a number."""
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        raise ValueError(f"{path} = {value!r} is no {kind.__name__}")


def to_json(model: Any) -> Any:
    """Converts a model to JSON."""
    return kfp_server_api.ApiClient().sanitize_for_serialization(model)


@dataclass
class Failure:
    """A failure that happens instead of an answer, for `times` requests from the `after`-th on."""

    operation: str
    status: int = 0
    body: str = ""
    reset: bool = False
    seconds: float = 0.0
    page: bool = False
    times: int = 1
    after: int = 0


@dataclass
class Request:
    """A request of the client."""

    operation: str
    parameters: dict[str, str]
    query: dict[str, str]
    body: Any
    file: str | None
    authorization: str | None


class Refusal(Exception):
    """An error that is answered with its own status."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


@dataclass
class State:
    """The objects on the server."""

    pipelines: list[Any] = field(default_factory=list)
    versions: list[Any] = field(default_factory=list)
    experiments: list[Any] = field(default_factory=list)
    runs: list[Any] = field(default_factory=list)
    schedules: list[Any] = field(default_factory=list)


class ApiServer:
    """The server, in a thread of this process; a context manager."""

    def __init__(self, token: str | None = None, certificate: tuple[Path, Path] | None = None) -> None:
        """
        Args:
            token: token that clients must send; None for no authentication.
            certificate: certificate and key, for TLS.
        """
        self.token = token
        self.state = State()
        self.requests: list[Request] = []
        self.paths: list[str] = []
        self.problems: list[str] = []
        self.failures: list[Failure] = []
        # Whether the models of all runs were pushed, in ML Metadata; None if ML Metadata is not at this address.
        self.pushed: bool | None = True
        # Frames of the runs that are started from now on.
        self.frames: list[tuple[str, list[Any]]] = [("RUNNING", []), ("SUCCEEDED", [])]
        self._playing: dict[str, list[tuple[str, list[Any]]]] = {}
        self._clock = BEGINNING
        self._lock = threading.Lock()
        server = self

        class Handler(_Handler):
            api = server

        self._http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._http.daemon_threads = True
        self._scheme = "http"
        if certificate:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(*certificate)
            self._http.socket = context.wrap_socket(self._http.socket, server_side=True)
            self._scheme = "https"

    @property
    def url(self) -> str:
        """The address of the server."""
        return f"{self._scheme}://127.0.0.1:{self._http.server_port}"

    def __enter__(self) -> ApiServer:
        threading.Thread(target=self._http.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._http.shutdown()
        self._http.server_close()

    def add_run(self, run_id: str, frames: list[tuple[str, list[Any]]]) -> None:
        """Adds a run that was started before."""
        run = kfp_server_api.V2beta1Run(run_id=run_id, created_at=self._clock, state="PENDING")
        self.state.runs.append(run)
        self._playing[run_id] = frames

    def did(self, operation: str) -> list[Request]:
        """Returns the requests for an operation so far."""
        return [request for request in self.requests if request.operation == operation]

    def due_failure(self, operation: str) -> Failure | None:
        """Returns the failure that is due for a request, if any."""
        with self._lock:
            for failure in self.failures:
                if failure.operation != operation:
                    continue
                if failure.after:
                    failure.after -= 1
                elif failure.times:
                    failure.times -= 1
                    return failure
        return None

    def answer(self, request: Request) -> Any:
        """Answers a valid request with a model."""
        with self._lock:
            self._clock += datetime.timedelta(seconds=1)
            return getattr(self, request.operation)(request)

    # The operations that the client needs.

    def get_healthz(self, request: Request) -> Any:
        return kfp_server_api.V2beta1GetHealthzResponse(multi_user=False)

    def list_pipelines(self, request: Request) -> Any:
        return kfp_server_api.V2beta1ListPipelinesResponse(**_page(self.state.pipelines, "pipelines", request))

    def upload_pipeline(self, request: Request) -> Any:
        name = request.query["name"]
        if any(pipeline.display_name == name for pipeline in self.state.pipelines):
            raise Refusal(409, f"The pipeline {name} already exists")
        pipeline = kfp_server_api.V2beta1Pipeline(
            pipeline_id=_id(),
            display_name=name,
            description=request.query.get("description"),
            namespace=request.query.get("namespace"),
            created_at=self._clock,
        )
        self.state.pipelines.append(pipeline)
        self._add_version(pipeline.pipeline_id, name, request)
        return pipeline

    def upload_pipeline_version(self, request: Request) -> Any:
        self._find(self.state.pipelines, "pipeline_id", request.query["pipelineid"])
        return self._add_version(request.query["pipelineid"], request.query["name"], request)

    def list_pipeline_versions(self, request: Request) -> Any:
        versions = [
            version for version in self.state.versions if version.pipeline_id == request.parameters["pipeline_id"]
        ]
        return kfp_server_api.V2beta1ListPipelineVersionsResponse(**_page(versions, "pipeline_versions", request))

    def get_pipeline_version(self, request: Request) -> Any:
        return self._find(self.state.versions, "pipeline_version_id", request.parameters["pipeline_version_id"])

    def list_experiments(self, request: Request) -> Any:
        return kfp_server_api.V2beta1ListExperimentsResponse(**_page(self.state.experiments, "experiments", request))

    def create_experiment(self, request: Request) -> Any:
        experiment = kfp_server_api.V2beta1Experiment(
            **request.body | {"experiment_id": _id(), "created_at": self._clock}
        )
        self.state.experiments.append(experiment)
        return experiment

    def create_run(self, request: Request) -> Any:
        reference = request.body["pipeline_version_reference"]
        self._find(self.state.versions, "pipeline_version_id", reference["pipeline_version_id"])
        self._find(self.state.experiments, "experiment_id", request.body["experiment_id"])
        run = _deserialised(request.body, "V2beta1Run")
        run.run_id, run.created_at, run.state = _id(), self._clock, "PENDING"
        self.state.runs.append(run)
        self._playing[run.run_id] = copy.deepcopy(self.frames)
        return run

    def get_run(self, request: Request) -> Any:
        run = self._find(self.state.runs, "run_id", request.parameters["run_id"])
        frames = self._playing[run.run_id]
        run.state, nodes = frames.pop(0) if len(frames) > 1 else frames[0]
        run.run_details = kfp_server_api.V2beta1RunDetails(task_details=nodes)
        if run.state in ("SUCCEEDED", "FAILED", "CANCELED"):
            run.finished_at = run.finished_at or run.created_at + datetime.timedelta(seconds=300)
        return run

    def list_runs(self, request: Request) -> Any:
        return kfp_server_api.V2beta1ListRunsResponse(**_page(self.state.runs, "runs", request))

    def terminate_run(self, request: Request) -> Any:
        run = self._find(self.state.runs, "run_id", request.parameters["run_id"])
        _, nodes = self._playing[run.run_id][0]
        self._playing[run.run_id] = [("CANCELING", nodes), ("CANCELED", nodes)]
        return {}

    def list_recurring_runs(self, request: Request) -> Any:
        page = _page(self.state.schedules, "recurring_runs", request)
        return kfp_server_api.V2beta1ListRecurringRunsResponse(**page)

    def create_recurring_run(self, request: Request) -> Any:
        schedule = _deserialised(request.body, "V2beta1RecurringRun")
        schedule.recurring_run_id, schedule.created_at, schedule.status = _id(), self._clock, "ENABLED"
        self.state.schedules.append(schedule)
        return schedule

    def delete_recurring_run(self, request: Request) -> Any:
        schedule = self._find(self.state.schedules, "recurring_run_id", request.parameters["recurring_run_id"])
        self.state.schedules.remove(schedule)
        return {}

    def metadata(self, method: str, content: bytes) -> bytes:
        """Answers a gRPC-Web request to ML Metadata, in which every run has two attempts of its pusher."""
        size = int.from_bytes(content[1:5], "big")
        assert content[0] == 0 and len(content) == 5 + size
        request = getattr(metadata_messages, f"{method}Request").FromString(content[5:])
        answer = getattr(metadata_messages, f"{method}Response")()
        if method == "GetContextByTypeAndName":
            assert request.type_name == "system.PipelineRun"
            self._find(self.state.runs, "run_id", request.context_name)
            answer.context.id = 3
        elif method == "GetExecutionsByContext":
            assert request.context_id == 3
            for number, task in enumerate(("", "trainer", "pusher", "pusher"), start=10):
                execution = answer.executions.add(id=number)
                execution.custom_properties["task_name"].string_value = task
        elif method == "GetEventsByExecutionIDs":
            assert list(request.execution_ids) == [13]
            answer.events.add(execution_id=13, artifact_id=20, type="INPUT")
            answer.events.add(execution_id=13, artifact_id=21, type="OUTPUT")
        else:
            assert list(request.artifact_ids) == [21]
            artifact = answer.artifacts.add(id=21)
            artifact.custom_properties["display_name"].string_value = "pushed_model"
            artifact.custom_properties["pushed"].double_value = float(bool(self.pushed))
        message = answer.SerializeToString()
        trailers = b"grpc-status:0\r\n"
        frames = ((b"\0", message), (b"\x80", trailers))
        return b"".join(kind + len(frame).to_bytes(4, "big") + frame for kind, frame in frames)

    def _add_version(self, pipeline_id: str, name: str, request: Request) -> Any:
        documents = list(yaml.safe_load_all(request.file or ""))
        spec = (
            documents[0]
            if len(documents) == 1
            else dict(zip(("pipeline_spec", "platform_spec"), documents, strict=True))
        )
        version = kfp_server_api.V2beta1PipelineVersion(
            pipeline_id=pipeline_id,
            pipeline_version_id=_id(),
            display_name=name,
            description=request.query.get("description"),
            created_at=self._clock,
            pipeline_spec=spec,
        )
        self.state.versions.append(version)
        return version

    @staticmethod
    def _find(entries: Iterable[Any], name: str, value: str) -> Any:
        for entry in entries:
            if getattr(entry, name) == value:
                return entry
        raise Refusal(404, f"Failed to get {name} {value}: not found")


class _Handler(BaseHTTPRequestHandler):
    """Reads a request, checks it against the API, and answers."""

    api: ApiServer
    protocol_version = "HTTP/1.1"
    wbufsize = -1  # header and body in one packet; otherwise the second waits for the client's acknowledgement

    def log_message(self, *message: object) -> None:
        """Logs nothing; the requests are in `requests`."""

    def do_GET(self) -> None:
        self._serve()

    def do_POST(self) -> None:
        self._serve()

    def do_DELETE(self) -> None:
        self._serve()

    def _serve(self) -> None:
        content = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.api.paths.append(self.path)
        self.path = self.path.removeprefix(KUBE_PROXY).removeprefix(KUBE_PROXY_OF_PAGES)
        if self.path.startswith(METADATA):
            self._serve_metadata(self.path.removeprefix(METADATA), content)
            return
        try:
            operation, request = self._read(content)
        except ValueError as error:
            self.api.problems.append(f"{self.command} {self.path}: {error}")
            self._send(400, {"error": str(error), "code": 3, "message": str(error), "details": []})
            return
        self.api.requests.append(request)
        if (failure := self.api.due_failure(request.operation)) and not self._fail(failure):
            return
        if self.api.token and request.authorization != f"Bearer {self.api.token}":
            # Some gateways repeat the token that they got.
            self._send(401, {"error": "", "code": 16, "message": f"Unauthenticated: {request.authorization}"})
            return
        try:
            document = to_json(self.api.answer(request))
        except Refusal as refusal:
            self._send(refusal.status, {"error": str(refusal), "code": 5, "message": str(refusal), "details": []})
            return
        check(document, operation.answer, operation.answer)
        self._send(200, document)

    def _serve_metadata(self, method: str, content: bytes) -> None:
        if (failure := self.api.due_failure(method)) and not self._fail(failure):
            return
        if self.api.token and self.headers.get("Authorization") != f"Bearer {self.api.token}":
            self._write(401, "text/plain", b"Unauthorized")
        elif self.api.pushed is None or self.headers.get("Content-Type") != "application/grpc-web+proto":
            self._write(404, "text/plain", b"404 page not found")
        else:
            self._write(200, "application/grpc-web+proto", self.api.metadata(method, content))

    def _read(self, content: bytes) -> tuple[Operation, Request]:
        parts = urlsplit(self.path)
        query = dict(parse_qsl(parts.query, keep_blank_values=True, strict_parsing=bool(parts.query)))
        for operation in OPERATIONS:
            match = operation.path.match(parts.path)
            if match and operation.method == self.command:
                break
        else:
            raise ValueError("the API has no such operation")
        if unknown := set(query) - operation.query:
            raise ValueError(f"{operation.name} has no query parameter {', '.join(sorted(unknown))}")
        if "filter" in query:
            check(json.loads(query["filter"]), "V2beta1Filter", "filter")
        body, file = None, None
        if operation.form:
            file = self._file(content, operation.form)
        elif operation.body:
            body = json.loads(content)
            check(body, operation.body, operation.body)
        elif content not in (b"", b"{}"):
            raise ValueError(f"{operation.name} takes no body")
        parameters = {name: unquote(value) for name, value in match.groupdict().items()}
        return operation, Request(operation.name, parameters, query, body, file, self.headers.get("Authorization"))

    def _file(self, content: bytes, form: frozenset[str]) -> str:
        head = f"Content-Type: {self.headers['Content-Type']}\r\n\r\n".encode()
        message = email.message_from_bytes(head + content, policy=email.policy.default)
        (part,) = message.iter_parts()
        if part.get_param("name", header="content-disposition") not in form:
            raise ValueError(f"the upload has no part {', '.join(form)}")
        if not str(part.get_filename()).endswith(".yaml"):
            raise ValueError("the file is no YAML by its name")
        payload = part.get_payload(decode=True)
        assert isinstance(payload, bytes)
        return payload.decode()

    def _fail(self, failure: Failure) -> bool:
        """Executes a failure. Returns True if the request is to be answered nevertheless."""
        time.sleep(failure.seconds)
        if failure.reset:
            self.close_connection = True
            with contextlib.suppress(OSError):
                self.connection.shutdown(2)
            return False
        if failure.page:
            self._write(200, "text/html", b"<html><title>Log in</title></html>")
            return False
        if failure.status:
            self._write(
                failure.status,
                "application/json" if failure.body.startswith("{") else "text/html",
                failure.body.encode(),
            )
            return False
        return True

    def _send(self, status: int, document: Any) -> None:
        self._write(status, "application/json", json.dumps(document).encode())

    def _write(self, status: int, kind: str, content: bytes) -> None:
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # a client that waits no longer
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)


def play(*tasks: tuple[str, ...]) -> list[tuple[str, list[Any]]]:
    """Returns the frames of a run whose tasks run one after another, as a backend on Argo shows them.

    A node that was never started has no state. Each container that ran adds an entry without a name, the launcher's
    record for the cache.

    Args:
        tasks: name, final state (succeeded, cached, failed or skipped) and, for a failure, optionally the message.
    """
    clock = BEGINNING
    nodes = [_node("im2latex-x7k2p", clock, None, "RUNNING"), _node("root-driver", clock, clock, "SUCCEEDED")]
    frames: list[tuple[str, list[Any]]] = [("PENDING", []), ("RUNNING", list(nodes))]
    state = "SUCCEEDED"
    for name, how, *message in tasks:
        began, clock = clock, clock + datetime.timedelta(seconds=SECONDS_A_STEP)
        if how == "skipped":
            nodes.append(_node(f"{name}-driver", began, began, None))
            nodes.append(_node(name, began, began, None))
            continue
        frames.append(("RUNNING", [*nodes, _node(f"{name}-driver", began, None, "RUNNING")]))
        driver = _node(f"{name}-driver", began, began + datetime.timedelta(seconds=8), "SUCCEEDED")
        if how == "cached":
            at = driver.end_time
            nodes += [driver, _node(name, at, at, "SUCCEEDED"), _node("executor", at, at, "SKIPPED")]
            frames.append(("RUNNING", list(nodes)))
            continue
        at = driver.end_time
        frames.append(
            ("RUNNING", [*nodes, driver, _node(name, at, None, "RUNNING"), _node("executor", at, None, "PENDING")])
        )
        end = how.upper()
        nodes += [driver, _node(name, at, clock, end, *message), _node("executor", at, clock, end)]
        nodes += [kfp_server_api.V2beta1PipelineTaskDetail(task_id=_id())]
        frames.append(("RUNNING", list(nodes)))
        state = "FAILED" if how == "failed" else state
    frames.append((state, list(nodes)))
    return frames


def _node(
    name: str, start: datetime.datetime, end: datetime.datetime | None, state: str | None, message: str = ""
) -> kfp_server_api.V2beta1PipelineTaskDetail:
    status = kfp_server_api.V2beta1RuntimeStatus(
        update_time=end or start, state=state, error=_error(message) if message else None
    )
    return kfp_server_api.V2beta1PipelineTaskDetail(
        task_id=_id(),
        display_name=name,
        create_time=BEGINNING,
        start_time=start,
        end_time=end or NEVER,
        state=state,
        state_history=[status],
    )


def _error(message: str) -> Any:
    kind = kfp_server_api.V2beta1RuntimeStatus.openapi_types["error"]  # its name differs between versions
    return getattr(kfp_server_api, kind)(code=13, message=message)


def _page(entries: list[Any], name: str, request: Request) -> dict[str, Any]:
    """Returns a page of a list, sorted and filtered as in the request."""
    matching = list(entries)
    for predicate in json.loads(request.query.get("filter", "{}")).get("predicates", []):
        assert predicate["operation"] == "EQUALS"
        matching = [entry for entry in matching if getattr(entry, predicate["key"]) == predicate["string_value"]]
    if key := request.query.get("sort_by"):
        key, _, direction = key.partition(" ")
        matching.sort(key=lambda entry: getattr(entry, key), reverse=direction == "desc")
    begin = int(request.query.get("page_token") or 0)
    end = begin + int(request.query.get("page_size") or 10)
    return {name: matching[begin:end], "total_size": len(matching)} | (
        {"next_page_token": str(end)} if end < len(matching) else {}
    )


def _deserialised(document: Any, kind: str) -> Any:
    """Converts JSON to a model."""

    class Response:
        data = json.dumps(document)

    return kfp_server_api.ApiClient().deserialize(Response, kind)


def _id() -> str:
    return str(uuid.uuid4())
