"""The agent's metrics, under the names that dashboards of ambient meshes know."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge

from cni.installer.driver import Look


class AgentMetrics:
    """One agent's counters and gauges."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._install_ready = Gauge(
            "istio_cni_install_ready", "Whether the CNI plugin is chained into the node's CNI", registry=self.registry
        )
        self._installs = Counter(
            "istio_cni_installs", "Changes of the plugin's installation, by result", ["result"], registry=self.registry
        )
        self._requests = Counter(
            "istio_cni_plugin_requests",
            "Requests of the CNI plugin, by command and CNI error code (0: success)",
            ["command", "code"],
            registry=self.registry,
        )
        self._repairs = Counter(
            "istio_cni_repair_pods_repaired",
            "Running pods that were brought to the state they should be in, by step and result",
            ["type", "result"],
            registry=self.registry,
        )
        self._reconciled = Counter(
            "nodeagent_reconcile_events", "Steps of work on pods, by kind", ["type"], registry=self.registry
        )
        self._connected = Gauge("ztunnel_connected", "ztunnels connected to the agent", registry=self.registry)
        self._installed = Look(None)

    def installed(self, look: Look) -> None:
        """The outcome of a look at the plugin's installation; counted when it is another than before."""
        self._install_ready.set(look.path is not None)
        if look.path is not None and look.path != self._installed.path:
            self._installs.labels(result="SUCCESS").inc()
        elif look.failure is not None and str(look.failure) != str(self._installed.failure):
            self._installs.labels(result="FAILURE").inc()
        self._installed = look

    def plugin_request(self, command: str, code: str) -> None:
        """One request of the plugin and what it was answered."""
        self._requests.labels(command=command, code=code).inc()

    def reconciled(self, step: str) -> None:
        """Work on a pod was begun."""
        self._reconciled.labels(type=step).inc()

    def repaired(self, step: str, succeeded: bool) -> None:
        """Work on a running pod ended."""
        self._repairs.labels(type=step, result="SUCCESS" if succeeded else "FAILURE").inc()

    def ztunnels(self, connected: int) -> None:
        """How many ztunnels follow the agent."""
        self._connected.set(connected)
