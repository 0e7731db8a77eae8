"""What waypoints are told about a destination: routes, policies, how its backends are treated.

What belongs here: pure translation of Gateway API routes and of Istio's VirtualService, DestinationRule,
AuthorizationPolicy with targets, RequestAuthentication and Telemetry to ``mesh.model``, composed to one ``Destination``
for everything that is bound to a waypoint. All reading is through a ``tracking.View``.

What does not: which waypoint something is bound to (``binding``), what ztunnels are told (the modules beside this
package).
"""
