"""Services by key and by address, with their endpoints ready to be drawn.

A ``ServiceView`` joins what arrives apart: the service itself and the workloads that name it. From these it builds
pools of finished routes, one per port, address family and place of the source, when they are first asked for. Any
change of the service or of one of its endpoints drops its pools.
"""

from __future__ import annotations

from collections.abc import Mapping

from mesh import ports
from mesh.addresses import Cidr, HboneTarget, IpBytes, SocketAddress, is_ipv4
from mesh.balance import Place, WeightedPool, eligible, place_of
from mesh.cidr import CidrTable
from mesh.identity import SpiffeId
from mesh.model.service import Service
from mesh.model.workload import NetworkAddress, TunnelProtocol, Workload
from mesh.state.claim_table import ClaimTable
from mesh.state.routes import ToWorkload

_ADDRESS_BITS = 128
_PoolKey = tuple[int, bool, str, Place]


class ServiceView:
    """One service and its endpoints."""

    __slots__ = ("_pools", "endpoints", "key", "ports", "service")

    def __init__(self, key: str) -> None:
        self.key = key
        self.service: Service | None = None
        """None as long as only endpoints have arrived."""
        self.ports: dict[int, int] = {}
        """Service port to target port; 0 is a named port."""
        self.endpoints: dict[str, Workload] = {}
        self._pools: dict[_PoolKey, WeightedPool[ToWorkload]] = {}

    def set_service(self, service: Service | None) -> None:
        """Replace the service itself."""
        self.service = service
        self.ports = {} if service is None else {port.service_port: port.target_port for port in service.ports}
        self._pools.clear()

    def set_endpoint(self, workload: Workload) -> None:
        """Add an endpoint or replace it."""
        self.endpoints[workload.uid] = workload
        self._pools.clear()

    def remove_endpoint(self, uid: str) -> None:
        """Take an endpoint out, if it is one."""
        self.endpoints.pop(uid, None)
        self._pools.clear()

    def pool(self, service: Service, port: int, *, ipv4: bool, source: Workload) -> WeightedPool[ToWorkload]:
        """The routes that a source may be given.

        Args:
            service: this view's, known to be there.
            port: one of ``ports``: callers check, so that the number of pools stays bounded.
            ipv4: the family that was dialled; endpoints with addresses of both are reached by the same.
            source: only its place and network matter.
        """
        preference = service.load_balancing.routing_preference
        place = place_of(source, preference) if preference else ()
        key = (port, ipv4, source.network, place)
        pool = self._pools.get(key)
        if pool is None:
            pool = self._pools[key] = self._build(service, port, ipv4, source.network, place)
        return pool

    def _build(
        self, service: Service, port: int, ipv4: bool, network: str, place: Place
    ) -> WeightedPool[ToWorkload]:
        target_ports = {
            uid: self._target_port(endpoint, port)
            for uid, endpoint in self.endpoints.items()
            if endpoint.addresses and endpoint.network == network
        }
        usable = [self.endpoints[uid] for uid, target_port in target_ports.items() if target_port]
        chosen = eligible(usable, place, service.load_balancing)
        routes = [self._route(service, endpoint, target_ports[endpoint.uid], ipv4) for endpoint in chosen]
        return WeightedPool(routes, [endpoint.capacity for endpoint in chosen])

    def _target_port(self, endpoint: Workload, port: int) -> int:
        """The endpoint's own entry comes first: named ports differ from pod to pod. 0: it does not serve this port."""
        for entry in endpoint.services[self.key]:
            if entry.service_port == port and entry.target_port:
                return entry.target_port
        return self.ports[port]

    def _route(self, service: Service, endpoint: Workload, port: int, ipv4: bool) -> ToWorkload:
        return route_to(endpoint, pick_address(endpoint, ipv4=ipv4), port, self.key, service.subject_alt_names)


def pick_address(workload: Workload, *, ipv4: bool) -> IpBytes:
    """The first address of a family, or the first at all; the workload has one."""
    for ip in workload.addresses:
        if is_ipv4(ip) is ipv4:
            return ip
    return workload.addresses[0]


def route_to(
    workload: Workload, ip: IpBytes, port: int, service_key: str | None = None, also_expected: tuple[str, ...] = ()
) -> ToWorkload:
    """The route to one workload at one of its addresses."""
    expected: frozenset[SpiffeId | str] = frozenset((workload.identity, *also_expected))
    tunnelled = workload.tunnel_protocol is TunnelProtocol.HBONE
    return ToWorkload(
        workload=workload,
        target=HboneTarget(SocketAddress(ip, port)),
        tunnel=SocketAddress(ip, ports.HBONE) if tunnelled else None,
        expected_identities=expected,
        service_key=service_key,
    )


class ServiceIndex:
    """All services of the mesh."""

    def __init__(self) -> None:
        self._views: dict[str, ServiceView] = {}
        self._by_vip: ClaimTable[tuple[str, IpBytes], ServiceView] = ClaimTable(
            owner_of=_key, preference=_canonical_first
        )
        self._by_cidr: dict[str, CidrTable[ClaimTable[None, ServiceView]]] = {}

    @property
    def views(self) -> Mapping[str, ServiceView]:
        """By key; also those of which only endpoints are known."""
        return self._views

    def at(self, network: str, ip: IpBytes) -> ServiceView | None:
        """Whose virtual address this is: an exact address before a network that holds it."""
        view = self._by_vip.current.get((network, ip))
        if view is not None or not self._by_cidr:
            return view
        table = self._by_cidr.get(network)
        claims = table.lookup(ip) if table is not None else None
        return claims.current[None] if claims is not None else None

    def put(self, service: Service) -> Service | None:
        """Add or replace; the former version, if any."""
        view = self._view(service.key)
        former = view.service
        if former is not None:
            self._release(view, former)
        view.set_service(service)
        for address in service.addresses:
            self._claim(view, address)
        return former

    def remove(self, key: str) -> Service | None:
        """Take one out, its endpoints stay known; what it was."""
        view = self._views.get(key)
        if view is None or view.service is None:
            return None
        former = view.service
        self._release(view, former)
        view.set_service(None)
        self._drop_if_empty(view)
        return former

    def replace_endpoint(self, former: Workload | None, workload: Workload | None) -> None:
        """Follow one workload from its former to its new version; either may be None."""
        if former is not None:
            for key in former.services:
                if workload is None or key not in workload.services:
                    view = self._views[key]
                    view.remove_endpoint(former.uid)
                    self._drop_if_empty(view)
        if workload is not None:
            for key in workload.services:
                self._view(key).set_endpoint(workload)

    def _view(self, key: str) -> ServiceView:
        view = self._views.get(key)
        if view is None:
            view = self._views[key] = ServiceView(key)
        return view

    def _drop_if_empty(self, view: ServiceView) -> None:
        if view.service is None and not view.endpoints:
            del self._views[view.key]

    def _claim(self, view: ServiceView, address: NetworkAddress) -> None:
        if _is_single(address):
            self._by_vip.claim((address.network, address.ip), view)
            return
        table = self._by_cidr.setdefault(address.network, CidrTable())
        network = Cidr(address.ip, address.length or 0)
        claims = table.exact(network)
        if claims is None:
            claims = ClaimTable(owner_of=_key, preference=_canonical_first)
            table.insert(network, claims)
        claims.claim(None, view)

    def _release(self, view: ServiceView, service: Service) -> None:
        for address in service.addresses:
            if _is_single(address):
                self._by_vip.release((address.network, address.ip), view.key)
                continue
            table = self._by_cidr.get(address.network)
            network = Cidr(address.ip, address.length or 0)
            claims = table.exact(network) if table is not None else None
            if table is None or claims is None:
                continue  # The service lists one network twice.
            claims.release(None, view.key)
            if not claims.current:
                table.remove(network)
                if not len(table):
                    del self._by_cidr[address.network]


def _is_single(address: NetworkAddress) -> bool:
    return address.length is None or address.length == _ADDRESS_BITS


def _key(view: ServiceView) -> str:
    return view.key


def _canonical_first(view: ServiceView) -> int:
    """A Kubernetes Service keeps its address against another object that claims the same one."""
    return 1 if view.service is not None and view.service.canonical else 0
