"""A client of the Kubeflow Pipelines API, with timeouts and with one-sentence errors.

kfp's client finds the cluster and logs in. Its functions that wait for a run and print links are not used, because they
have no timeouts and stop at the first error.
"""

from __future__ import annotations

import contextlib
import dataclasses
import io
import json
import logging
import os
import re
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import kfp
import kfp_server_api
import urllib3
from google.auth.exceptions import GoogleAuthError
from kfp.client import ServiceAccountTokenVolumeCredentials

from im2latex.errors import UserError

TOKEN_VARIABLE = "KFP_EXISTING_TOKEN"  # the variable of the kfp command's option --existing-token
HOST_VARIABLE = "KF_PIPELINES_ENDPOINT"
UI_VARIABLE = "KF_PIPELINES_UI_ENDPOINT"
# Seconds to connect, and to wait for the next bytes; by default the client waits forever.
TIMEOUT = (10, 60)
# Statuses worth a retry: the server is starting or overloaded, or its gateway has lost it.
TRANSIENT = {408, 429, 500, 502, 503, 504}
PAGE = 50
LONGEST_MESSAGE = 400
# What kfp's client prints when it finds no cluster. The first request then raises an error that says what to do.
NO_KUBECONFIG = "Failed to load kube config."


class Refused(UserError):
    """The server refused a request; `status` is the HTTP status."""

    def __init__(self, sentence: str, status: int) -> None:
        super().__init__(sentence)
        self.status = status


class Unreachable(UserError):
    """The server did not answer, or is unavailable for now; `what` is the message without the advice."""

    def __init__(self, what: str, to_do: str) -> None:
        super().__init__(f"{what}; {to_do}")
        self.what = what


@dataclasses.dataclass(frozen=True)
class Access:
    """Address and credentials of a cluster; for None, kfp's client uses its own defaults."""

    host: str | None = None
    namespace: str | None = None
    token_file: Path | None = None
    ca_cert: Path | None = None


class _Client(kfp.Client):
    """kfp's client, which checks the server's health once, and not five times with a traceback each."""

    def get_kfp_healthz(self, sleep_duration: int = 0) -> Any:
        return _call(self, "say whether it is there", "healthzs", "get_healthz")


class _Messages(io.TextIOBase):
    """Passes what kfp's client prints, such as where to log in, to stderr, without the line `NO_KUBECONFIG`."""

    def __init__(self) -> None:
        self._is_left_out = False

    def write(self, text: str) -> int:
        # print() writes the text and the end of the line one after the other.
        if text == NO_KUBECONFIG or (text == "\n" and self._is_left_out):
            self._is_left_out = text == NO_KUBECONFIG
            return len(text)
        return sys.stderr.write(text)

    def flush(self) -> None:
        sys.stderr.flush()


class Cluster:
    """The API of one cluster; every call has timeouts and raises one-sentence errors."""

    def __init__(self, access: Access) -> None:
        """
        Raises:
            UserError: no address is known, the server cannot be reached, or it refuses the login.
        """
        self._access = access
        self._client = _connect(access)

    @property
    def namespace(self) -> str:
        """The user's namespace on a cluster with several users; "" on others."""
        return self._access.namespace or self._client.get_user_namespace() or ""

    def command(self, what: str) -> str:
        """Returns an `im2latex kubeflow` command for this cluster, for messages."""
        address = self._access.host
        host = f" --host {_shown(address)}" if address and address != os.environ.get(HOST_VARIABLE) else ""
        return f"`im2latex kubeflow {what}{host}`"

    def reconnect(self) -> None:
        """Logs in again, with a newly read token."""
        self._client = _connect(self._access)

    def call(self, doing: str, service: str, operation: str, *arguments: Any, **query: Any) -> Any:
        """Calls an operation of the API; see `_call`."""
        return _call(self._client, doing, service, operation, *arguments, **query)

    def every(self, doing: str, service: str, operation: str, field: str, *arguments: Any, **query: Any) -> Iterator:
        """Yields the entries of all pages of a list; `field` names the entries of a page."""
        token = ""
        while True:
            page = self.call(doing, service, operation, *arguments, page_size=PAGE, page_token=token, **query)
            yield from getattr(page, field) or []
            token = page.next_page_token
            if not token:
                return

    def metadata(self, method: str, **fields: Any) -> Any:
        """Calls a method of ML Metadata by gRPC-Web, at the address that the web page of a run uses too.

        Raises:
            UserError: ML Metadata is not available at this address, or does not answer.
        """
        from ml_metadata.proto import metadata_store_service_pb2 as messages

        api_client = _method(self._client, "runs", "get_run").__self__.api_client
        parts = urlsplit(os.environ.get(UI_VARIABLE) or api_client.configuration.host)
        # Through the Kubernetes proxy it is behind the web page's service; otherwise it is at the root of the address.
        prefix, proxied, _ = parts.path.partition("/ml-pipeline:http/proxy")
        path = f"{prefix}/ml-pipeline-ui:http/proxy" if proxied else ""
        path = f"{path}/ml_metadata.MetadataStoreService/{method}"
        address = urlunsplit((parts.scheme, parts.netloc, path, "", ""))
        headers = {**api_client.default_headers, "Content-Type": "application/grpc-web+proto", "X-Grpc-Web": "1"}
        if api_client.cookie:
            headers["Cookie"] = api_client.cookie
        request = getattr(messages, f"{method}Request")(**fields).SerializeToString()
        frame = b"\0" + len(request).to_bytes(4, "big") + request
        with _request(api_client.configuration, "answer for ML Metadata"):
            api_client.update_params_for_auth(headers, [], ["Bearer"])
            answer = api_client.rest_client.POST(address, headers=headers, body=frame, _request_timeout=TIMEOUT)
        # An answer is a frame with the message and a frame with trailers. After an error there is only the second
        # frame, or no frame but a header.
        if answer.data[:1] != b"\0" or answer.getheader("grpc-status") not in (None, "0"):
            raise UserError(f"ML Metadata does not answer {method}: {answer.getheader('grpc-message') or 'no message'}")
        length = int.from_bytes(answer.data[1:5], "big")
        return getattr(messages, f"{method}Response").FromString(answer.data[5 : 5 + length])

    def address(self, run_id: str) -> str:
        """Returns the address of a run's web page; "" if only the API's address is known."""
        base = os.environ.get(UI_VARIABLE) or self._access.host
        if not base:
            return ""
        return f"{_shown(base if '://' in base else f'https://{base}').rstrip('/')}/#/runs/details/{run_id}"

    def named(self, doing: str, service: str, operation: str, field: str, name: str) -> Any:
        """Returns the entry of a list with this display name; None if there is none."""
        page = self.call(doing, service, operation, filter=display_name_is(name), namespace=self.namespace)
        entries = getattr(page, field) or []
        return entries[0] if entries else None

    def run(self, run_id: str) -> Any:
        """Returns a run with its tasks."""
        return self.call(f"show the run {run_id}", "runs", "get_run", run_id)


def _connect(access: Access) -> _Client:
    if access.ca_cert and not access.ca_cert.is_file():
        raise UserError(f"there is no certificate {access.ca_cert}; --ca-cert takes a file in PEM format")
    if access.token_file and not access.token_file.is_file():
        raise UserError(f"there is no token file {access.token_file}; --token-file takes a file with the token alone")
    host = (access.host or "").rstrip("/")
    # The client takes its default host for "not set", so the port is added to tell the two apart.
    host = f"{host}:80" if host == kfp_server_api.Configuration().host else host
    # This module reports retries itself, once; urllib3 would log each one.
    logging.getLogger("urllib3.connectionpool").setLevel(logging.ERROR)
    # The client prints messages to stdout, which is for answers.
    with contextlib.redirect_stdout(_Messages()), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            client = _Client(
                host=host or None,
                existing_token=None if access.token_file else os.environ.get(TOKEN_VARIABLE) or None,
                credentials=ServiceAccountTokenVolumeCredentials(str(access.token_file)) if access.token_file else None,
                ssl_ca_cert=str(access.ca_cert) if access.ca_cert else None,
            )
        except GoogleAuthError as error:
            raise UserError(f"cannot get a token from Google for {access.host}: {error}; log in with gcloud") from None
    return client


def _call(client: kfp.Client, doing: str, service: str, operation: str, *arguments: Any, **query: Any) -> Any:
    """Calls an operation of the API and returns its answer.

    Args:
        client: kfp's client.
        doing: what the operation does, for messages: "the server does not DOING".
        service: name of the client's attribute for the service, such as runs.
        operation: name of the method, without the name of the service that newer clients put before it.
        arguments: required arguments of the operation.
        query: optional arguments; empty ones are left out.

    Raises:
        Refused: the server refuses the request.
        Unreachable: the server does not answer, or is unavailable for now.
        UserError: the answer is not from the API.
    """
    method = _method(client, service, operation)
    api_client = method.__self__.api_client
    configuration = api_client.configuration
    if configuration.host == kfp_server_api.Configuration().host:
        raise UserError(
            "no address of Kubeflow Pipelines is known: give --host or set KF_PIPELINES_ENDPOINT "
            "(`kubectl port-forward --namespace kubeflow service/ml-pipeline-ui 8080:80` makes it http://localhost:8080)"
            ", or set KUBECONFIG to a file that can be loaded"
        )
    given_query = {name: value for name, value in query.items() if value not in (None, "")}
    with _request(configuration, doing):
        answer = method(*arguments, _request_timeout=TIMEOUT, **given_query)
    # A gateway that requires a login answers with a web page, which the client would parse as an empty answer.
    if "json" not in (api_client.last_response.getheader("content-type") or ""):
        raise UserError(
            f"{_shown(configuration.host)} answers with a web page instead of the API, perhaps a login page; "
            f"set {TOKEN_VARIABLE} to a token, or give --host"
        )
    return answer


def _method(client: kfp.Client, service: str, operation: str) -> Any:
    """Returns the method of an operation; newer clients put the name of the service before it."""
    api = getattr(client, service)
    return getattr(api, f"{service[:-1]}_service_{operation}", None) or getattr(api, operation)


@contextlib.contextmanager
def _request(configuration: kfp_server_api.Configuration, doing: str) -> Iterator[None]:
    """Converts the errors of a request to one-sentence errors, see `_call`, and keeps the address of the API.

    When the Kubernetes client refreshes a token, it reloads all of the kubeconfig. That replaces the address of
    Kubeflow Pipelines by the address of the cluster.
    """
    address, refresh = configuration.host, configuration.refresh_api_key_hook

    def refresh_token_alone(refreshed: kfp_server_api.Configuration) -> None:
        refresh(refreshed)
        refreshed.host = address

    if refresh:
        configuration.refresh_api_key_hook = refresh_token_alone
    host = _shown(address)
    try:
        yield
    except kfp_server_api.ApiException as error:
        raise _refusal(error, host, doing, configuration.api_key.get("authorization")) from None
    except urllib3.exceptions.HTTPError as error:
        raise _no_answer(error, host) from None
    except OSError as error:  # urllib3 makes its own errors of the network's
        raise UserError(f"cannot read the token in {error.filename}: {error.strerror}; check the file") from None
    finally:
        configuration.refresh_api_key_hook = refresh


def _shown(address: str) -> str:
    """Removes the user name and password from an address."""
    parts = urlsplit(address)
    return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2]))


def _refusal(error: kfp_server_api.ApiException, host: str, doing: str, token: str | None) -> UserError:
    """Converts an error status to an error that says what to do."""
    message = message_in(error.body.decode(errors="replace") if isinstance(error.body, bytes) else error.body)
    if token:
        message = message.replace(token.removeprefix("Bearer "), "(the token)")
    reason = f": {message}" if message else ""
    if error.status in TRANSIENT:
        return Unreachable(f"{host} cannot {doing} for now ({error.status}){reason}", "give the same command again")
    match error.status:
        case 401:
            what = "does not take the token, which may have expired" if token else "wants a token"
            hint = (
                f"get one, such as `kubectl create token default-editor --namespace NAMESPACE "
                f"--audience pipelines.kubeflow.org`, and set {TOKEN_VARIABLE} or give --token-file"
            )
            return Refused(f"{host} {what} (401){reason}; {hint}", 401)
        case 403:
            hint = "use the token of someone who may, ask for the right, or give another --namespace"
        case 404:
            hint = "look whether the name is right and whether it was deleted; --host and --namespace say where to look"
        case 409:
            hint = "someone else was doing the same; look at what is there, then give the same command again"
        case _:
            hint = "put right what it names and give the same command again"
    return Refused(f"{host} does not {doing} ({error.status}){reason}; {hint}", error.status)


def message_in(body: str | None) -> str:
    """Returns the server's message in one line: the API's message, or another text that is not a web page."""
    text = body or ""
    with contextlib.suppress(ValueError):
        document = json.loads(text)
        if isinstance(document, dict):
            text = next((str(document[key]) for key in ("message", "error", "error_message") if document.get(key)), "")
    text = "" if text.lstrip().startswith("<") else " ".join(text.split())
    return text if len(text) <= LONGEST_MESSAGE else f"{text[:LONGEST_MESSAGE]}…"


def _no_answer(error: urllib3.exceptions.HTTPError, host: str) -> UserError:
    """Converts a connection error to an error that says why there was no answer."""
    reason = getattr(error, "reason", None) or error
    if isinstance(reason, urllib3.exceptions.SSLError):
        return UserError(
            f"{host} does not support TLS, or its certificate is not trusted ({reason}); give the certificate of its "
            "authority with --ca-cert, or use http:// if it does not support TLS"
        )
    if isinstance(reason, urllib3.exceptions.LocationValueError):
        return UserError(f"{host} is not an address ({reason}); --host takes one such as http://localhost:8080")
    # In urllib3, a refused connection is a subclass of its timeouts.
    late = isinstance(reason, urllib3.exceptions.TimeoutError)
    late = late and not isinstance(reason, urllib3.exceptions.NewConnectionError)
    what = "does not answer in time" if late else "cannot be reached"
    return Unreachable(f"{host} {what} ({_cause(reason)})", "look whether it runs, and give the same command again")


def _cause(reason: BaseException) -> str:
    """Returns urllib3's message without the representation of the object at its beginning."""
    message = str(reason.args[-1]) if reason.args else ""
    return re.sub(r"^\S+\(.*?\): |^<.*?>: ", "", message) or type(reason).__name__


def display_name_is(name: str) -> str:
    """Returns a filter for lists: the entries with this display name."""
    predicate = kfp_server_api.V2beta1Predicate(operation="EQUALS", key="display_name", string_value=name)
    document = kfp_server_api.V2beta1Filter(predicates=[predicate])
    return json.dumps(kfp_server_api.ApiClient().sanitize_for_serialization(document))
