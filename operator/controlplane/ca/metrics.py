"""Metrics of the certificate authority, under the names people already watch.

Those names do not end in ``_total``, which prometheus_client puts at the end of every counter: the families are written
as untyped ones, which Prometheus takes for counters as well as for anything else.
"""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client import CollectorRegistry
from prometheus_client.metrics_core import GaugeMetricFamily, Metric, UnknownMetricFamily
from prometheus_client.registry import Collector


class AuthorityMetrics(Collector):
    """What one authority has done; plain numbers, to be counted up by whoever does it."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.requests = 0
        self.authentication_failures = 0
        self.issued = 0
        self.unreadable = 0
        self.refused = 0
        self.signing_failures = 0
        self.root_expiry = 0.0
        """Seconds since 1970."""
        registry.register(self)

    def collect(self) -> Iterator[Metric]:
        """The families of one scrape."""
        for name, documentation, value in (
            ("csr_count", "Certificate signing requests received.", self.requests),
            ("authentication_failure_count", "Callers without a good token.", self.authentication_failures),
            ("success_cert_issuance_count", "Certificates issued.", self.issued),
            ("csr_parsing_err_count", "Requests that could not be read or verified.", self.unreadable),
            ("id_extraction_err_count", "Requests for an identity the caller has no claim to.", self.refused),
            ("csr_sign_err_count", "Failures while signing.", self.signing_failures),
        ):
            yield UnknownMetricFamily(f"citadel_server_{name}", documentation, value)
        documentation = "When the authority expires, in seconds since 1970."
        yield GaugeMetricFamily("citadel_server_root_cert_expiry_timestamp", documentation, self.root_expiry)
