"""The API of Kubeflow Pipelines, with time-outs, and with what can go wrong as sentences.

kfp's client finds the cluster and logs in; its own waiting and its printed links are not used, because it has no
time-outs, and stops at the first answer that is not a good one.
"""

from __future__ import annotations

import contextlib
import dataclasses
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

TOKEN_VARIABLE = "KFP_EXISTING_TOKEN"  # what the kfp command reads --existing-token from
HOST_VARIABLE = "KF_PIPELINES_ENDPOINT"
UI_VARIABLE = "KF_PIPELINES_UI_ENDPOINT"
# Seconds to connect, and to wait for the next bytes; the client's own default is for ever.
TIMEOUT = (10, 60)
# Statuses of a server that is starting, overloaded or behind a gateway that lost it.
TRANSIENT = {408, 429, 500, 502, 503, 504}
PAGE = 50
LONGEST_MESSAGE = 400


class Refused(UserError):
    """The server answered, and said no; `status` is HTTP's."""

    def __init__(self, sentence: str, status: int) -> None:
        super().__init__(sentence)
        self.status = status


class Unreachable(UserError):
    """No answer, or one that says that there may be one later; `what` is the sentence without what to do."""

    def __init__(self, what: str, to_do: str) -> None:
        super().__init__(f"{what}; {to_do}")
        self.what = what


@dataclasses.dataclass(frozen=True)
class Access:
    """Where the cluster is and how to log in; what is None is left to the conventions of kfp's client."""

    host: str | None = None
    namespace: str | None = None
    token_file: Path | None = None
    ca_cert: Path | None = None


class _Client(kfp.Client):
    """kfp's client; asks once whether the server is there, not five times with a traceback each."""

    def get_kfp_healthz(self, sleep_duration: int = 0) -> Any:
        return _call(self, "say whether it is there", "healthzs", "get_healthz")


class Cluster:
    """The API of one cluster, each call with time-outs and with refusals as sentences."""

    def __init__(self, access: Access) -> None:
        """
        Raises:
            UserError: no address is known, or nothing that can be talked with is there.
        """
        self._access = access
        self._client = _connect(access)

    @property
    def namespace(self) -> str:
        """Whose pipelines and runs they are, on a cluster with several users; else empty."""
        return self._access.namespace or self._client.get_user_namespace() or ""

    def command(self, what: str) -> str:
        """The `im2latex kubeflow` command that does something here, for sentences."""
        given = self._access.host
        host = f" --host {_shown(given)}" if given and given != os.environ.get(HOST_VARIABLE) else ""
        return f"`im2latex kubeflow {what}{host}`"

    def reconnect(self) -> None:
        """Logs in again, with what the token's place holds by now."""
        self._client = _connect(self._access)

    def call(self, doing: str, service: str, operation: str, *arguments: Any, **query: Any) -> Any:
        """The answer of an operation of the API; see `_call`."""
        return _call(self._client, doing, service, operation, *arguments, **query)

    def every(self, doing: str, service: str, operation: str, field: str, *arguments: Any, **query: Any) -> Iterator:
        """The entries of all pages of a list, of which `field` holds each page's."""
        token = ""
        while True:
            page = self.call(doing, service, operation, *arguments, page_size=PAGE, page_token=token, **query)
            yield from getattr(page, field) or []
            token = page.next_page_token
            if not token:
                return

    def metadata(self, method: str, **fields: Any) -> Any:
        """The answer of ML Metadata, which the browser's page of a run asks under the same address, by gRPC-Web.

        Raises:
            UserError: this address has none, or it does not answer.
        """
        from ml_metadata.proto import metadata_store_service_pb2 as messages

        api_client = _method(self._client, "runs", "get_run").__self__.api_client
        parts = urlsplit(os.environ.get(UI_VARIABLE) or api_client.configuration.host)
        # Through Kubernetes it is behind the pages' service; else, behind a gateway too, not under the pages' path.
        place, proxied, _ = parts.path.partition("/ml-pipeline:http/proxy")
        path = f"{place}/ml-pipeline-ui:http/proxy" if proxied else ""
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
        # A frame of the message and one of trailers; after an error the second alone, or none and a header.
        if answer.data[:1] != b"\0" or answer.getheader("grpc-status") not in (None, "0"):
            raise UserError(f"ML Metadata does not answer {method}: {answer.getheader('grpc-message') or 'no message'}")
        length = int.from_bytes(answer.data[1:5], "big")
        return getattr(messages, f"{method}Response").FromString(answer.data[5 : 5 + length])

    def address(self, run_id: str) -> str:
        """The page of a run in the browser; empty when only the API's address is known."""
        base = os.environ.get(UI_VARIABLE) or self._access.host
        if not base:
            return ""
        return f"{_shown(base if '://' in base else f'https://{base}').rstrip('/')}/#/runs/details/{run_id}"

    def named(self, doing: str, service: str, operation: str, field: str, name: str) -> Any:
        """The entry of a list with this display name, or None."""
        page = self.call(doing, service, operation, filter=display_name_is(name), namespace=self.namespace)
        entries = getattr(page, field) or []
        return entries[0] if entries else None

    def run(self, run_id: str) -> Any:
        """A run with its tasks."""
        return self.call(f"show the run {run_id}", "runs", "get_run", run_id)


def _connect(access: Access) -> _Client:
    if access.ca_cert and not access.ca_cert.is_file():
        raise UserError(f"there is no certificate {access.ca_cert}; --ca-cert takes a file in PEM format")
    if access.token_file and not access.token_file.is_file():
        raise UserError(f"there is no token file {access.token_file}; --token-file takes a file with the token alone")
    host = (access.host or "").rstrip("/")
    # The client takes the address with no port for that of nowhere, and so must not be given it.
    host = f"{host}:80" if host == kfp_server_api.Configuration().host else host
    # What is tried again is said here, once, and not by urllib3 for each try.
    logging.getLogger("urllib3.connectionpool").setLevel(logging.ERROR)
    # The client prints what concerns a person, such as where to log in, between the lines of an answer.
    with contextlib.redirect_stdout(sys.stderr), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            client = _Client(
                host=host or None,
                existing_token=None if access.token_file else os.environ.get(TOKEN_VARIABLE) or None,
                credentials=ServiceAccountTokenVolumeCredentials(str(access.token_file)) if access.token_file else None,
                ssl_ca_cert=str(access.ca_cert) if access.ca_cert else None,
            )
        except GoogleAuthError as error:
            raise UserError(f"Google does not give a token for {access.host}: {error}; log in with gcloud") from None
    return client


def _call(client: kfp.Client, doing: str, service: str, operation: str, *arguments: Any, **query: Any) -> Any:
    """The answer of an operation of the API.

    Args:
        client: kfp's client.
        doing: what the operation is to do, for sentences: "the server does not DOING".
        service: name of the client's attribute for it, such as runs.
        operation: name of its method without the service's, which only newer clients put before it.
        arguments: what the operation must have.
        query: what it may have; what is empty is left out.

    Raises:
        Refused: the server says no.
        Unreachable: the server does not answer, or says that it cannot for now.
        UserError: what answers is not the API.
    """
    method = _method(client, service, operation)
    api_client = method.__self__.api_client
    configuration = api_client.configuration
    if configuration.host == kfp_server_api.Configuration().host:
        raise UserError(
            "no address of Kubeflow Pipelines is known: give --host or set KF_PIPELINES_ENDPOINT "
            "(`kubectl port-forward --namespace kubeflow service/ml-pipeline-ui 8080:80` makes it http://localhost:8080)"
        )
    given = {name: value for name, value in query.items() if value not in (None, "")}
    with _request(configuration, doing):
        answer = method(*arguments, _request_timeout=TIMEOUT, **given)
    # A gateway that wants a log-in sends its page, which the client would take for an answer with nothing in it.
    if "json" not in (api_client.last_response.getheader("content-type") or ""):
        raise UserError(
            f"{_shown(configuration.host)} answers with a web page and not as the API: it may be a log-in or another "
            f"address; set {TOKEN_VARIABLE} to a token, or give --host"
        )
    return answer


def _method(client: kfp.Client, service: str, operation: str) -> Any:
    """The method of an operation, which newer clients name with the service before it."""
    api = getattr(client, service)
    return getattr(api, f"{service[:-1]}_service_{operation}", None) or getattr(api, operation)


@contextlib.contextmanager
def _request(configuration: kfp_server_api.Configuration, doing: str) -> Iterator[None]:
    """Around a request: makes sentences of what it can come to, see `_call`, and keeps the address.

    Kubernetes' client refreshes a token of the kubeconfig by setting up all that is in the kubeconfig again, and so the
    address of the cluster instead of that of Kubeflow Pipelines in it.
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
        raise UserError(f"cannot read the token in {error.filename}: {error.strerror}; write it there again") from None
    finally:
        configuration.refresh_api_key_hook = refresh


def _shown(address: str) -> str:
    """An address without the name and password that may stand in it."""
    parts = urlsplit(address)
    return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2]))


def _refusal(error: kfp_server_api.ApiException, host: str, doing: str, token: str | None) -> UserError:
    """What a status other than 200 means, and what to do."""
    told = message_in(error.body.decode(errors="replace") if isinstance(error.body, bytes) else error.body)
    if token:
        told = told.replace(token.removeprefix("Bearer "), "(the token)")
    because = f": {told}" if told else ""
    if error.status in TRANSIENT:
        return Unreachable(f"{host} cannot {doing} for now ({error.status}){because}", "give the same command again")
    match error.status:
        case 401:
            what = "does not take the token, which may have expired" if token else "wants a token"
            hint = (
                f"get one, such as `kubectl create token default-editor --namespace NAMESPACE "
                f"--audience pipelines.kubeflow.org`, and set {TOKEN_VARIABLE} or give --token-file"
            )
            return Refused(f"{host} {what} (401){because}; {hint}", 401)
        case 403:
            hint = "use the token of someone who may, ask for the right, or give another --namespace"
        case 404:
            hint = "look whether the name is right and whether it was deleted; --host and --namespace say where to look"
        case 409:
            hint = "someone else was doing the same; look at what is there, then give the same command again"
        case _:
            hint = "put right what it names and give the same command again"
    return Refused(f"{host} does not {doing} ({error.status}){because}; {hint}", error.status)


def message_in(body: str | None) -> str:
    """What the server said, in one line: the API's own message, or another text that is no page."""
    text = body or ""
    with contextlib.suppress(ValueError):
        document = json.loads(text)
        if isinstance(document, dict):
            text = next((str(document[key]) for key in ("message", "error", "error_message") if document.get(key)), "")
    text = "" if text.lstrip().startswith("<") else " ".join(text.split())
    return text if len(text) <= LONGEST_MESSAGE else f"{text[:LONGEST_MESSAGE]}…"


def _no_answer(error: urllib3.exceptions.HTTPError, host: str) -> UserError:
    """Why there was no answer."""
    reason = getattr(error, "reason", None) or error
    if isinstance(reason, urllib3.exceptions.SSLError):
        return UserError(
            f"{host} has no certificate that is trusted here, or does not speak TLS ({reason}); give its authority's "
            "certificate with --ca-cert, or an address that begins with http:// where it has none"
        )
    if isinstance(reason, urllib3.exceptions.LocationValueError):
        return UserError(f"{host} is not an address ({reason}); --host takes one such as http://localhost:8080")
    # A refused connection is one of urllib3's time-outs.
    late = isinstance(reason, urllib3.exceptions.TimeoutError)
    late = late and not isinstance(reason, urllib3.exceptions.NewConnectionError)
    what = "does not answer in time" if late else "cannot be reached"
    return Unreachable(f"{host} {what} ({_cause(reason)})", "look whether it runs, and give the same command again")


def _cause(reason: BaseException) -> str:
    """What urllib3 says, without the object that it says it of."""
    said = str(reason.args[-1]) if reason.args else ""
    return re.sub(r"^\S+\(.*?\): |^<.*?>: ", "", said) or type(reason).__name__


def display_name_is(name: str) -> str:
    """A filter of lists."""
    predicate = kfp_server_api.V2beta1Predicate(operation="EQUALS", key="display_name", string_value=name)
    document = kfp_server_api.V2beta1Filter(predicates=[predicate])
    return json.dumps(kfp_server_api.ApiClient().sanitize_for_serialization(document))
