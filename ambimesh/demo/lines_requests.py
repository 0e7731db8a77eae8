"""Lines 13 to 16: what a waypoint does about failures, tokens and too many requests."""

from __future__ import annotations

import base64
import json
import textwrap

import jwt
from cryptography.hazmat.primitives.asymmetric import ec

from ambimesh.demo.lines_waypoint import apply, ask
from ambimesh.demo.stage import NAMESPACE, Stage, require
from mesh.clock import utc_now
from resources.decode import decode_documents

_URL = "http://echo-v2/"
_TRIES = 40
_FAULTS = 400
_SHARE = (16.0, 44.0)
"""Percent of so many requests that three of ten may come to: six standard deviations."""
_COPIES = 20
_LIMIT, _ASKED = 10, 30
_ISSUER = "https://issuer.demo"


async def recovered(stage: Stage) -> str:
    """A retry hides that a backend fails every second time; a timeout ends what takes too long."""
    before = await ask(stage, "--count", str(_TRIES), url=f"{_URL}flaky")
    require(before["statuses"].get("503", 0) > _TRIES // 4, f"the backend is not flaky: {before}")
    apply(stage, "resilience.yaml")

    async def ended() -> bool:
        _, text = await stage.curl("client-a", f"{_URL}slow", "-o", "/dev/null", "-w", "%{http_code}")
        return text == "504"

    await stage.until(ended, 15, lambda: "/slow is not ended")
    _, text = await stage.curl("client-a", f"{_URL}slow", "-o", "/dev/null", "-w", "%{http_code} %{time_total}")
    status, _, took = text.partition(" ")
    require(status == "504" and float(took) < 2, f"/slow, which takes 2 s, was answered {text}")
    after = await ask(stage, "--count", str(_TRIES), url=f"{_URL}flaky")
    require(after["statuses"] == {"200": _TRIES}, f"with retries {after}")
    return (
        f"of {_TRIES} requests {before['statuses']['503']} failed without retries, 0 with them; "
        f"a backend of 2 s was given up after {float(took):.2f} s with 504 (timeout 0.2 s)"
    )


async def disturbed(stage: Stage) -> str:
    """Faults hit as many as they should, without asking the server; a mirror gets a copy of each request."""
    apply(stage, "resilience.yaml")

    async def hit() -> bool:
        return "418" in (await ask(stage, "--count", "20", url=f"{_URL}fault"))["statuses"]

    await stage.until(hit, 15, lambda: "no fault hits")
    faults = await ask(stage, "--count", str(_FAULTS), url=f"{_URL}fault")
    share = 100 * faults["statuses"].get("418", 0) / _FAULTS
    require(_SHARE[0] < share < _SHARE[1], f"{share:.1f} % of {_FAULTS} requests failed, not 30: {faults}")
    require(sum(faults["statuses"].values()) == _FAULTS, f"some were not answered: {faults}")
    late = await ask(stage, url=f"{_URL}late")
    require(float(late["seconds"]) >= 0.1, f"a delay of 0.1 s took {late['seconds']} s")
    path = f"copied-{stage.marker()}"
    copied = await ask(stage, "--count", str(_COPIES), url=f"{_URL}{path}")
    require(copied["pods"] == {"echo-2": _COPIES}, f"clients were answered by {copied}")
    looks = 0

    async def arrived() -> bool:
        nonlocal looks
        report = await stage.call("client-a", f"http://{stage.address('echo-1')}:8080/{path}")
        found: int = report["before"] - looks
        looks += 1
        return found == _COPIES

    await stage.until(arrived, 5, lambda: f"not {_COPIES} copies arrived")
    return (
        f"30 % aborts hit {share:.1f} % of {_FAULTS}; a delay of 0.1 s took {float(late['seconds']):.2f} s; "
        f"of {_COPIES} requests to echo-2 {_COPIES} copies at echo-1"
    )


async def tokens(stage: Stage) -> str:
    """Requests need a token of the issuer; none, an expired one, and one that somebody else has signed are refused."""
    keys = {name: ec.generate_private_key(ec.SECP256R1()) for name in ("issuer", "stranger")}

    def token(key: str, seconds: int) -> str:
        claims = {"iss": _ISSUER, "sub": "somebody", "exp": int(utc_now().timestamp()) + seconds}
        return jwt.encode(claims, keys[key], algorithm="ES256", headers={"kid": "k"})

    async def status(bearer: str | None) -> str:
        header = () if bearer is None else ("-H", f"authorization: Bearer {bearer}")
        _, text = await stage.curl("client-a", _URL, "-o", "/dev/null", "-w", "%{http_code}", *header)
        return text

    objects, problems = decode_documents(_authentication(keys["issuer"].public_key()), "tokens")
    require(not problems, "; ".join(map(str, problems)))
    for each in objects:
        stage.store.apply(each)
    try:

        async def refused() -> bool:
            return await status(None) == "403"

        await stage.until(refused, 10, lambda: "a request without token is still admitted")
        found = {
            "good": await status(token("issuer", 600)),
            "expired": await status(token("issuer", -600)),
            "of a stranger": await status(token("stranger", 600)),
        }
        require(found == {"good": "200", "expired": "401", "of a stranger": "401"}, f"by token: {found}")
    finally:
        for each in objects:
            stage.store.delete(type(each), each.metadata.namespace, each.metadata.name)
    return "no token 403, a good one 200, an expired one 401, one of a stranger 401"


def _authentication(key: ec.EllipticCurvePublicKey) -> str:
    numbers = key.public_numbers()

    def text(value: int) -> str:
        return base64.urlsafe_b64encode(value.to_bytes(32, "big")).rstrip(b"=").decode()

    listed = [{"kty": "EC", "crv": "P-256", "kid": "k", "x": text(numbers.x), "y": text(numbers.y)}]
    return textwrap.dedent(
        f"""
        apiVersion: security.istio.io/v1
        kind: RequestAuthentication
        metadata: {{name: echo-v2, namespace: {NAMESPACE}}}
        spec:
          targetRefs: [{{group: "", kind: Service, name: echo-v2}}]
          jwtRules: [{{issuer: "{_ISSUER}", jwks: '{json.dumps({"keys": listed})}'}}]
        ---
        apiVersion: security.istio.io/v1
        kind: AuthorizationPolicy
        metadata: {{name: echo-v2, namespace: {NAMESPACE}}}
        spec:
          targetRefs: [{{group: "", kind: Service, name: echo-v2}}]
          action: ALLOW
          rules: [{{from: [{{source: {{requestPrincipals: ["{_ISSUER}/*"]}}}}]}}]
        """
    )


async def limited(stage: Stage) -> str:
    """A client has ten requests a minute; another one has ten of its own."""
    apply(stage, "limited.yaml")
    url = "http://echo-v1/"

    async def in_force() -> bool:
        found = await ask(stage, "--count", str(_ASKED), url=url)
        return "429" in found["statuses"]

    await stage.until(in_force, 10, lambda: "nothing is refused")
    own = await ask(stage, "--count", str(_ASKED), url=url)
    other = await ask(stage, "--count", str(_ASKED), url=url, pod="client-b")
    admitted, refused = (other["statuses"].get(status, 0) for status in ("200", "429"))
    # A token more may have come meanwhile.
    require(admitted in (_LIMIT, _LIMIT + 1) and admitted + refused == _ASKED, f"client-b: {other}")
    require(own["statuses"].get("200", 0) <= 1, f"client-a, who has used up its own: {own}")
    return f"of {_ASKED} requests at once of client-b {admitted} admitted, {refused} refused with 429"
