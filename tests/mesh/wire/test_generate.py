import re
from pathlib import Path

from google.protobuf.descriptor import FileDescriptor

from mesh.wire import (
    authorization_pb2,
    certificate_pb2,
    discovery_pb2,
    node_pb2,
    status_pb2,
    workload_pb2,
    zds_pb2,
)
from mesh.wire.generate import FOLDER, generate


def without_generator_version(text: str) -> str:
    text = re.sub(r"# Protobuf Python Version: .*", "", text)
    return re.sub(r"(_runtime_version\.Domain\.PUBLIC,)\s+\d+,\s+\d+,\s+\d+,", r"\1", text)


def test_committed_modules_are_what_the_generator_makes(tmp_path: Path) -> None:
    made = generate(tmp_path)
    committed = sorted(path.name for pattern in ("*_pb2.py", "*_pb2.pyi") for path in FOLDER.glob(pattern))
    assert [path.name for path in made] == committed
    for path in made:
        expected = without_generator_version((FOLDER / path.name).read_text())
        assert without_generator_version(path.read_text()) == expected, "run python -m mesh.wire.generate and commit"


def test_full_names_are_those_of_the_public_protocols() -> None:
    modules = (authorization_pb2, certificate_pb2, discovery_pb2, node_pb2, status_pb2, workload_pb2, zds_pb2)
    files: list[FileDescriptor] = [module.DESCRIPTOR for module in modules]
    names = {message.full_name for file in files for message in file.message_types_by_name.values()}
    assert {
        "istio.workload.Address",
        "istio.security.Authorization",
        "istio.workload.zds.WorkloadRequest",
        "istio.v1.auth.IstioCertificateRequest",
        "envoy.service.discovery.v3.DeltaDiscoveryRequest",
        "envoy.config.core.v3.Node",
        "google.rpc.Status",
    } <= names
    assert all(file.name.startswith("mesh/wire/") for file in files)


def test_workload_bytes_have_the_public_field_numbers() -> None:
    workload = workload_pb2.Workload(name="n", uid="u", network_mode=workload_pb2.HOST_NETWORK)
    workload.capacity.value = 2
    # tag = number << 3 | wire type, so: 1 string, 20 string, 25 varint, 27 message
    expected = b"\x0a\x01n" + b"\xa2\x01\x01u" + b"\xc8\x01\x01" + b"\xda\x01\x02\x08\x02"
    assert workload.SerializeToString(deterministic=True) == expected


def test_keep_workload_is_field_five_and_delete_names_field_two() -> None:
    assert zds_pb2.WorkloadRequest(keep={"uid": "x"}).SerializeToString() == b"\x2a\x03\x0a\x01x"
    assert zds_pb2.WorkloadRequest(**{"del": {"uid": "x"}}).SerializeToString() == b"\x12\x03\x12\x01x"
