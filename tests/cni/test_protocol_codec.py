import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cni.protocol_codec import (
    CniCode,
    CniFailure,
    Command,
    decode_reply,
    decode_request,
    encode_failure,
    encode_reply,
    encode_versions,
)
from mesh.addresses import parse_ip
from mesh.errors import InvalidMessage

PREVIOUS: dict[str, Any] = {
    "cniVersion": "1.0.0",
    "interfaces": [{"name": "cni0"}, {"name": "eth0", "sandbox": "/run/netns/a", "mac": "x"}],
    "ips": [
        {"address": "10.244.1.7/24", "gateway": "10.244.1.1", "interface": 1},
        {"address": "fd00:10:244:1::7/64", "interface": 1},
        {"address": "10.244.1.1/24", "interface": 0},
    ],
    "dns": {"nameservers": ["10.96.0.10"]},
    "x-unknown": [1, 2.5, None],
}


def relayed(configuration: Any = None, **environment: str) -> bytes:
    if configuration is None:
        configuration = {"cniVersion": "1.0.0", "name": "net", "type": "ambimesh-cni", "prevResult": PREVIOUS}
    text = configuration if isinstance(configuration, str) else json.dumps(configuration)
    full = {
        "CNI_COMMAND": "ADD",
        "CNI_CONTAINERID": "c1",
        "CNI_NETNS": "/run/netns/a",
        "CNI_IFNAME": "eth0",
        "CNI_ARGS": "IgnoreUnknown=1;K8S_POD_NAMESPACE=shop;K8S_POD_NAME=client;K8S_POD_UID=u-1",
    } | environment
    return json.dumps({"environment": full, "configuration": text}).encode()


def code_of(data: bytes) -> CniCode:
    with pytest.raises(CniFailure) as raised:
        decode_request(data)
    return raised.value.code


def test_an_add_is_read_whole() -> None:
    request = decode_request(relayed())
    assert (request.command, request.version, request.container_id) == (Command.ADD, "1.0.0", "c1")
    assert (request.netns, request.interface) == ("/run/netns/a", "eth0")
    assert request.pod is not None
    assert (request.pod.namespace, request.pod.name, request.pod.uid) == ("shop", "client", "u-1")
    # Only addresses of interfaces inside the sandbox: the bridge's is not the pod's.
    assert request.addresses == (parse_ip("10.244.1.7"), parse_ip("fd00:10:244:1::7"))


def test_the_previous_result_is_the_result_byte_for_byte() -> None:
    text = json.dumps(PREVIOUS, indent=3)
    configuration = f'{{"cniVersion": "0.3.1", "prevResult": {text}, "type": "ambimesh-cni"}}'
    assert decode_request(relayed(configuration)).previous_result == text.encode()


def test_a_result_of_version_0_3_1_without_interfaces() -> None:
    previous = {"cniVersion": "0.3.1", "ips": [{"version": "4", "address": "10.1.2.3/24"}]}
    request = decode_request(relayed({"cniVersion": "0.3.1", "prevResult": previous}))
    assert request.addresses == (parse_ip("10.1.2.3"),)


def test_a_delete_may_come_without_a_namespace() -> None:
    assert decode_request(relayed({"cniVersion": "0.4.0"}, CNI_COMMAND="DEL", CNI_NETNS="")).netns == ""


def test_a_container_without_kubernetes_has_no_pod() -> None:
    assert decode_request(relayed(CNI_ARGS="")).pod is None
    assert decode_request(relayed(CNI_ARGS="IgnoreUnknown=1")).pod is None


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (b"", CniCode.DECODING_FAILED),
        (b"\xff\xfe", CniCode.DECODING_FAILED),
        (b'{"environment": {}, "configuration": "{}", "more": 1}', CniCode.DECODING_FAILED),
        (b'{"environment": {"CNI_ARGS": "\xff"}, "configuration": "{}"}', CniCode.DECODING_FAILED),
        (relayed(CNI_COMMAND="GC"), CniCode.INVALID_ENVIRONMENT),
        (relayed(CNI_CONTAINERID=""), CniCode.INVALID_ENVIRONMENT),
        (relayed(CNI_NETNS=""), CniCode.INVALID_ENVIRONMENT),
        (relayed(CNI_COMMAND="CHECK", CNI_IFNAME=""), CniCode.INVALID_ENVIRONMENT),
        (relayed(CNI_COMMAND="DEL", CNI_CONTAINERID=""), CniCode.INVALID_ENVIRONMENT),
        (relayed("{"), CniCode.DECODING_FAILED),
        (relayed("[]"), CniCode.DECODING_FAILED),
        (relayed(""), CniCode.DECODING_FAILED),
        (relayed({"cniVersion": "0.2.0"}), CniCode.INCOMPATIBLE_VERSION),
        (relayed({"cniVersion": "2.0.0"}), CniCode.INCOMPATIBLE_VERSION),
        (relayed({}), CniCode.INCOMPATIBLE_VERSION),
        (relayed({"cniVersion": "1.0.0", "prevResult": []}), CniCode.DECODING_FAILED),
        (relayed({"cniVersion": "1.0.0", "prevResult": {"ips": [{"address": "x/1"}]}}), CniCode.DECODING_FAILED),
        (
            relayed(
                {
                    "cniVersion": "1.0.0",
                    "prevResult": {"interfaces": [{"name": "e"}], "ips": [{"address": "1.2.3.4/8", "interface": 3}]},
                }
            ),
            CniCode.DECODING_FAILED,
        ),
        (relayed(CNI_ARGS="K8S_POD_NAME"), CniCode.INVALID_ENVIRONMENT),
        (relayed(CNI_ARGS="K8S_POD_NAME=x"), CniCode.INVALID_ENVIRONMENT),
        (relayed(CNI_ARGS="../etc=x"), CniCode.INVALID_ENVIRONMENT),
    ],
)
def test_bad_requests_get_the_codes_of_the_specification(data: bytes, code: CniCode) -> None:
    assert code_of(data) is code


@given(st.binary(max_size=300))
def test_garbage_is_a_failure_never_a_crash(data: bytes) -> None:
    with pytest.raises(CniFailure):
        decode_request(data)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=12), inner, max_size=3),
    max_leaves=8,
)


@given(st.fixed_dictionaries({"cniVersion": json_values, "prevResult": json_values}), st.text(max_size=60))
def test_odd_configurations_and_arguments_are_requests_or_failures(configuration: Any, arguments: str) -> None:
    try:
        decode_request(relayed(configuration, CNI_ARGS=arguments))
    except CniFailure:
        return


@given(st.sampled_from([0, 1]), st.binary(max_size=500))
def test_replies_come_back_and_cut_ones_do_not(status: int, output: bytes) -> None:
    data = encode_reply(status, output)
    assert decode_reply(data) == (status, output)
    with pytest.raises(InvalidMessage):
        decode_reply(data[:-1])
    with pytest.raises(InvalidMessage):
        decode_reply(data + b"x")


def test_error_objects_and_versions() -> None:
    failure = CniFailure(CniCode.TRY_AGAIN_LATER, 'say "when"', "details")
    assert json.loads(encode_failure("0.4.0", failure)) == {
        "cniVersion": "0.4.0",
        "code": 11,
        "msg": 'say "when"',
        "details": "details",
    }
    # An error about a version we do not speak is told in one we do.
    assert json.loads(encode_failure("9.9.9", failure))["cniVersion"] == "1.0.0"
    assert json.loads(encode_versions("0.4.0"))["supportedVersions"] == ["0.3.0", "0.3.1", "0.4.0", "1.0.0"]
