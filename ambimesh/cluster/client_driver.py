"""Requests to the Kubernetes API. They block, with a deadline each: a command has nothing else to do meanwhile.

Kinds are looked up in the API's own discovery, so that custom resources need no table here. Objects are written by
server-side apply: fields that others own stay theirs, and two writers of one field are told.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote, urlencode

import kubernetes
import urllib3.exceptions
from kubernetes.config import ConfigException

from ambimesh.cluster.answers import refusal
from mesh.errors import ConfigurationError, ConnectFailed, EnvironmentLacks, ObjectMissing

FIELD_MANAGER = "ambimesh"
_SECONDS = 30.0
_PAGE = 500

Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Resource:
    """How objects of a kind are reached."""

    path: str
    """Of its group and version: ``/api/v1``, ``/apis/apps/v1``."""
    plural: str
    namespaced: bool

    def url(self, namespace: str = "", name: str = "", subresource: str = "") -> str:
        """The path of an object, or without a name of a list; without a namespace of all namespaces."""
        parts = [self.path]
        if self.namespaced and namespace:
            parts += ["namespaces", quote(namespace, safe="")]
        parts.append(self.plural)
        parts += [quote(part, safe="") for part in (name, subresource) if part]
        return "/".join(parts)


class Cluster:
    """A cluster, through its API server."""

    def __init__(self, context: str | None = None, *, kubeconfig: str | None = None) -> None:
        """Read the user's configuration, or in a pod the pod's.

        Args:
            context: of the kubeconfig; its current one when left out.
            kubeconfig: a file other than the usual ones.

        Raises:
            ConfigurationError: there is no such context, or no configuration at all.
        """
        try:
            self._client = _from_kubeconfig(kubeconfig, context)
        except ConfigException as error:
            if context is not None:
                raise ConfigurationError(f"no cluster to talk to: {_no_context(kubeconfig, context, error)}") from error
            if kubeconfig is not None:
                raise ConfigurationError(f"no cluster to talk to: {error}") from error
            self._client = _in_cluster(error)
        except OSError as error:
            raise ConfigurationError(f"no cluster to talk to: kubeconfig: {error}") from error
        self.context = context or ""
        self.server: str = self._client.configuration.host
        self._date = ""
        self._resources: dict[str, dict[str, Resource]] = {}

    @property
    def client(self) -> Any:
        """The ``kubernetes`` client, for streams."""
        return self._client

    def request(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, str] | None = None,
        body: Any = None,
        content_type: str = "application/json",
        seconds: float = _SECONDS,
    ) -> bytes:
        """One request.

        Raises:
            ObjectMissing: 404.
            ConfigurationError: the API refuses it; the message says why, and what may help.
            ConnectFailed: the API server does not answer.
            EnvironmentLacks: it answers that it cannot serve now.
        """
        headers = {"Accept": "application/json", "User-Agent": "ambimesh"}
        if body is not None:
            headers["Content-Type"] = content_type
        self._client.update_params_for_auth(headers, [], ["BearerToken"], path, method, body)
        url = self.server + path + ("?" + urlencode(query) if query else "")
        try:
            # The pool below the generated client: its own request() takes no patch of server-side apply.
            answer = self._client.rest_client.pool_manager.request(
                method,
                url,
                headers=headers,
                body=None if body is None else json.dumps(body).encode(),
                timeout=urllib3.Timeout(connect=10.0, read=seconds),
                retries=False,
            )
        except urllib3.exceptions.HTTPError as error:
            raise ConnectFailed(f"the API server {self.server} does not answer: {error}") from error
        if answer.status >= 400:
            raise refusal(answer.status, answer.data, f"{method} {path}")
        self._date = answer.headers.get("Date", "")
        data: bytes = answer.data
        return data

    def server_date(self) -> str:
        """The API server's clock, as HTTP writes it. Raises as :meth:`request`."""
        self.version()
        return self._date

    def get_json(self, path: str, query: Mapping[str, str] | None = None) -> Json:
        """GET, decoded. Raises as :meth:`request`."""
        return _decoded(self.request("GET", path, query=query))

    def version(self) -> Json:
        """``/version``. Raises as :meth:`request`."""
        return self.get_json("/version")

    # -- kinds ---------------------------------------------------------------------------------------------------------

    def resource(self, api_version: str, kind: str) -> Resource:
        """How a kind is reached.

        Raises:
            ObjectMissing: the cluster has no such kind.
            MeshError: as :meth:`request`.
        """
        if api_version not in self._resources:
            self._resources[api_version] = self._discovered(api_version)
        found = self._resources[api_version].get(kind)
        if found is None:
            raise ObjectMissing(f"the cluster has no kind {kind} in {api_version}: is its definition (CRD) installed?")
        return found

    def has(self, api_version: str, kind: str) -> bool:
        """Whether the cluster knows a kind. Raises as :meth:`request`."""
        try:
            self.resource(api_version, kind)
        except ObjectMissing:
            return False
        return True

    def _discovered(self, api_version: str) -> dict[str, Resource]:
        path = f"/api/{api_version}" if "/" not in api_version else f"/apis/{api_version}"
        try:
            listed = self.get_json(path)["resources"]
        except ObjectMissing:
            return {}
        return {
            one["kind"]: Resource(path, one["name"], one["namespaced"])
            for one in listed
            if "/" not in one["name"]
        }

    # -- objects -------------------------------------------------------------------------------------------------------

    def get(self, api_version: str, kind: str, name: str, namespace: str = "") -> Json:
        """An object. Raises ``ObjectMissing``, or as :meth:`request`."""
        return self.get_json(self.resource(api_version, kind).url(namespace, name))

    def find(self, api_version: str, kind: str, name: str, namespace: str = "") -> Json | None:
        """An object, if it and its kind are there. Raises as :meth:`request`."""
        try:
            return self.get(api_version, kind, name, namespace)
        except ObjectMissing:
            return None

    def all_of(
        self, api_version: str, kind: str, namespace: str = "", labels: str = "", fields: str = ""
    ) -> Iterator[Json]:
        """Objects, of all namespaces when none is given. Raises as :meth:`resource`."""
        path = self.resource(api_version, kind).url(namespace)
        query = {"limit": str(_PAGE)}
        if labels:
            query["labelSelector"] = labels
        if fields:
            query["fieldSelector"] = fields
        while True:
            page = self.get_json(path, query)
            for each in page.get("items") or ():
                yield {"apiVersion": api_version, "kind": kind, **each}
            rest = page.get("metadata", {}).get("continue")
            if not rest:
                return
            query["continue"] = rest

    def apply(self, value: Json, *, dry_run: bool = False, force: bool = True) -> Json:
        """Create or change an object by server-side apply; what it then is.

        Args:
            value: the fields that are to be ours.
            dry_run: have it checked only, by everything that would check it.
            force: take over fields that another writer has claimed.

        Raises:
            MeshError: as :meth:`request`.
        """
        metadata = value["metadata"]
        path = self.resource(value["apiVersion"], value["kind"]).url(metadata.get("namespace", ""), metadata["name"])
        query = {"fieldManager": FIELD_MANAGER, "force": "true" if force else "false", "fieldValidation": "Strict"}
        if dry_run:
            query["dryRun"] = "All"
        return _decoded(
            self.request("PATCH", path, query=query, body=value, content_type="application/apply-patch+yaml")
        )

    def merge(self, api_version: str, kind: str, name: str, change: Json, namespace: str = "") -> Json:
        """Change some fields; null takes one away. Raises as :meth:`request`."""
        path = self.resource(api_version, kind).url(namespace, name)
        query = {"fieldManager": FIELD_MANAGER}
        return _decoded(
            self.request("PATCH", path, query=query, body=change, content_type="application/merge-patch+json")
        )

    def delete(
        self, api_version: str, kind: str, name: str, namespace: str = "", *, owned_first: bool = False
    ) -> bool:
        """Delete an object and what it owns, which goes later or before it; whether it was there.

        Raises as :meth:`request`.
        """
        try:
            path = self.resource(api_version, kind).url(namespace, name)
            self.request("DELETE", path, body={"propagationPolicy": "Foreground" if owned_first else "Background"})
        except ObjectMissing:
            return False
        return True

    def may(self, verb: str, group: str, plural: str, namespace: str = "") -> bool:
        """Whether the API server would let the user do this. Raises as :meth:`request`."""
        attributes = {"verb": verb, "group": group, "resource": plural, "namespace": namespace}
        review = {
            "apiVersion": "authorization.k8s.io/v1",
            "kind": "SelfSubjectAccessReview",
            "spec": {"resourceAttributes": attributes},
        }
        answer = self.request("POST", "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews", body=review)
        return bool(_decoded(answer).get("status", {}).get("allowed"))

    def log(self, namespace: str, pod: str, container: str, *, lines: int, previous: bool = False) -> str:
        """The last lines of a container's log, or of the one before it. Raises as :meth:`request`."""
        query = {"container": container, "tailLines": str(lines), "previous": "true" if previous else "false"}
        path = self.resource("v1", "Pod").url(namespace, pod, "log")
        return self.request("GET", path, query=query).decode(errors="replace")


def _from_kubeconfig(file: str | None, context: str | None) -> Any:
    return kubernetes.config.new_client_from_config(config_file=file, context=context)  # type: ignore[no-untyped-call]


def _no_context(file: str | None, context: str, error: ConfigException) -> str:
    """Why a context cannot be used: mostly that there is none of this name."""
    try:
        contexts, _ = kubernetes.config.list_kube_config_contexts(config_file=file)  # type: ignore[no-untyped-call]
    except (ConfigException, OSError):
        return str(error)
    names = [str(one["name"]) for one in contexts]
    if context in names:
        return str(error)
    there = ", ".join(names) or "none"
    return f"the kubeconfig has no context {context}; it has: {there}; remedy: --context, KUBECONFIG"


def _in_cluster(first: ConfigException) -> Any:
    configuration = kubernetes.client.Configuration()
    try:
        kubernetes.config.load_incluster_config(configuration)  # type: ignore[no-untyped-call]
    except ConfigException:
        raise ConfigurationError(f"no cluster to talk to: {first}; remedy: set KUBECONFIG") from first
    return kubernetes.client.ApiClient(configuration)


def _decoded(data: bytes) -> Json:
    try:
        value = json.loads(data)
    except ValueError as error:
        raise EnvironmentLacks(f"the API server's answer is not JSON: {data[:80]!r}") from error
    if not isinstance(value, dict):
        raise EnvironmentLacks(f"the API server's answer is no object: {data[:80]!r}")
    return value
