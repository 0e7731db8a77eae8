"""The parts of a Pod."""

from __future__ import annotations

from msgspec import field

from resources.base import Condition, Fields, Port, Raw


class ContainerPort(Fields, frozen=True):
    """A port a container listens on; its name is what a Service's named target port refers to."""

    container_port: Port
    name: str = ""
    protocol: str = "TCP"
    host_port: int | None = None
    host_ip: str | None = field(default=None, name="hostIP")


class EnvironmentVariable(Fields, frozen=True):
    """A variable of a container's environment."""

    name: str
    value: str = ""
    value_from: Raw = None


class ExecAction(Fields, frozen=True):
    """Run a command in the container; exit status 0 is success."""

    command: tuple[str, ...] = ()


class HttpHeader(Fields, frozen=True):
    """A header of a probe's request."""

    name: str
    value: str


class HttpGetAction(Fields, frozen=True):
    """GET an address; a status from 200 to 399 is success."""

    port: int | str
    path: str = "/"
    host: str = ""
    scheme: str = "HTTP"
    http_headers: tuple[HttpHeader, ...] = ()


class TcpSocketAction(Fields, frozen=True):
    """Open a connection."""

    port: int | str
    host: str = ""


class Probe(Fields, frozen=True):
    """How the kubelet learns whether a container lives or is ready; times in seconds."""

    exec: ExecAction | None = None
    http_get: HttpGetAction | None = None
    tcp_socket: TcpSocketAction | None = None
    grpc: Raw = None
    initial_delay_seconds: int = 0
    timeout_seconds: int = 1
    period_seconds: int = 10
    success_threshold: int = 1
    failure_threshold: int = 3
    termination_grace_period_seconds: int | None = None


class Container(Fields, frozen=True):
    """One container."""

    name: str
    image: str = ""
    command: tuple[str, ...] = ()
    args: tuple[str, ...] = ()
    working_dir: str | None = None
    ports: tuple[ContainerPort, ...] = ()
    env_from: Raw = None
    env: tuple[EnvironmentVariable, ...] = ()
    resources: Raw = None
    resize_policy: Raw = None
    restart_policy: str | None = None
    restart_policy_rules: Raw = None
    volume_mounts: Raw = None
    volume_devices: Raw = None
    liveness_probe: Probe | None = None
    readiness_probe: Probe | None = None
    startup_probe: Probe | None = None
    lifecycle: Raw = None
    termination_message_path: str | None = None
    termination_message_policy: str | None = None
    image_pull_policy: str | None = None
    security_context: Raw = None
    stdin: bool | None = None
    stdin_once: bool | None = None
    tty: bool | None = None


class PodSpec(Fields, frozen=True):
    """What a pod shall be."""

    containers: tuple[Container, ...]
    volumes: Raw = None
    init_containers: tuple[Container, ...] = ()
    ephemeral_containers: Raw = None
    restart_policy: str | None = None
    termination_grace_period_seconds: int | None = None
    active_deadline_seconds: int | None = None
    dns_policy: str | None = None
    node_selector: dict[str, str] = field(default_factory=dict)
    service_account_name: str = ""
    service_account: str = ""
    automount_service_account_token: bool | None = None
    node_name: str = ""
    host_network: bool = False
    host_pid: bool | None = field(default=None, name="hostPID")
    host_ipc: bool | None = field(default=None, name="hostIPC")
    host_users: bool | None = None
    share_process_namespace: bool | None = None
    security_context: Raw = None
    image_pull_secrets: Raw = None
    hostname: str | None = None
    hostname_override: str | None = None
    subdomain: str | None = None
    affinity: Raw = None
    scheduler_name: str | None = None
    scheduling_gates: Raw = None
    tolerations: Raw = None
    host_aliases: Raw = None
    priority_class_name: str | None = None
    priority: int | None = None
    preemption_policy: str | None = None
    dns_config: Raw = None
    readiness_gates: Raw = None
    runtime_class_name: str | None = None
    enable_service_links: bool | None = None
    overhead: Raw = None
    topology_spread_constraints: Raw = None
    set_hostname_as_fqdn: bool | None = field(default=None, name="setHostnameAsFQDN")
    os: Raw = None
    resource_claims: Raw = None
    resources: Raw = None
    workload_ref: Raw = None

    @property
    def account(self) -> str:
        """The service account the pod runs as."""
        return self.service_account_name or self.service_account or "default"


class PodIp(Fields, frozen=True):
    """One of a pod's addresses."""

    ip: str


class PodStatus(Fields, frozen=True):
    """What a pod is."""

    observed_generation: int | None = None
    phase: str = ""
    """``Pending``, ``Running``, ``Succeeded``, ``Failed`` or ``Unknown``."""
    conditions: tuple[Condition, ...] = ()
    message: str | None = None
    reason: str | None = None
    nominated_node_name: str | None = None
    host_ip: str = field(default="", name="hostIP")
    host_ips: Raw = field(default=None, name="hostIPs")
    pod_ip: str = field(default="", name="podIP")
    pod_ips: tuple[PodIp, ...] = field(default=(), name="podIPs")
    start_time: str | None = None
    init_container_statuses: Raw = None
    container_statuses: Raw = None
    ephemeral_container_statuses: Raw = None
    qos_class: str | None = None
    resize: str | None = None
    resource_claim_statuses: Raw = None
    extended_resource_claim_status: Raw = None
    allocated_resources: Raw = None
    resources: Raw = None

    @property
    def addresses(self) -> tuple[str, ...]:
        """All addresses, the primary one first."""
        listed = tuple(entry.ip for entry in self.pod_ips)
        if self.pod_ip and self.pod_ip not in listed:
            return (self.pod_ip, *listed)
        return listed

    @property
    def ready(self) -> bool:
        """Whether the ``Ready`` condition holds."""
        return any(condition.type == "Ready" and condition.status == "True" for condition in self.conditions)

    @property
    def ended(self) -> bool:
        """Whether the pod has run to its end and will not come back."""
        return self.phase in ("Failed", "Succeeded")
