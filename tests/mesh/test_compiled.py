"""Compiled and pure form: which one runs, that the compiled one is never stale, and that both do the same."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import struct
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mesh import compiled
from mesh.hbone.codec import END_HEADERS, PREFACE, Setting, encode_connect, encode_response, frame, settings_frame

ROOT = Path(__file__).parents[2]
TRANSCRIBE = Path(__file__).with_name("transcribe.py")


# -- which form runs ---------------------------------------------------------------------------------------------------


def test_setup_has_compiled_these_very_sources() -> None:
    assert compiled.examine({}) == compiled.Form(compiled=True, detail=str(compiled.FOLDER))


def test_the_manifest_holds_every_source_that_can_make_a_difference() -> None:
    manifest = compiled.read_manifest(compiled.FOLDER)
    modules = {name for name in manifest.files if not name.endswith("__mypyc")}
    sources = {name.removesuffix(".py").replace("/", ".") for name in manifest.sources}
    assert modules <= sources
    # Not compiled, but imported by what is, directly and through others.
    assert {"mesh.errors", "mesh.identity", "mesh.relay.pool", "mesh.tls.handshake_driver", "ebpf.layout"} <= sources


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """A folder of compiled modules to do harm to, with its sources beside it."""
    shutil.copytree(compiled.FOLDER, tmp_path / "compiled")
    for name in compiled.read_manifest(compiled.FOLDER).sources:
        (tmp_path / "sources" / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / "sources" / name)
    compiled.read_manifest(tmp_path / "compiled", tmp_path / "sources")
    return tmp_path


def refusal(folder: Path) -> str:
    with pytest.raises(compiled.Unusable) as caught:
        compiled.read_manifest(folder / "compiled", folder / "sources")
    assert "run make setup" in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("name", ["mesh/hbone/machine.py", "mesh/errors.py"])
def test_an_edited_source_of_a_compiled_module_or_of_what_it_imports_is_noticed(copy: Path, name: str) -> None:
    with (copy / "sources" / name).open("a") as file:
        file.write("\n")
    assert refusal(copy).startswith(f"{name} has changed")
    (copy / "sources" / name).unlink()
    assert refusal(copy).startswith(f"{name} has changed")


def test_another_interpreter_is_noticed(copy: Path) -> None:
    manifest = json.loads((copy / "compiled" / compiled.MANIFEST).read_text())
    manifest["interpreter"] = "cpython-312 3.12.0 .so"
    (copy / "compiled" / compiled.MANIFEST).write_text(json.dumps(manifest))
    assert "compiled for cpython-312" in refusal(copy)


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"interpreter": "x", "files": 1, "sources": 2}', "\ud800"])
def test_a_broken_manifest_is_noticed(copy: Path, text: str) -> None:
    (copy / "compiled" / compiled.MANIFEST).write_text(text, errors="surrogatepass")
    assert "cannot be read" in refusal(copy)


def test_missing_files_are_noticed(copy: Path) -> None:
    next((copy / "compiled").rglob("machine.*.so")).unlink()
    assert "is missing" in refusal(copy)
    (copy / "compiled" / compiled.MANIFEST).unlink()
    assert "nothing is compiled" in refusal(copy)


def test_the_finder_finds_what_is_compiled_and_nothing_else(tmp_path: Path) -> None:
    finder = compiled.CompiledFinder(tmp_path, {"mesh.hbone.codec": "codec.so"})
    spec = finder.find_spec("mesh.hbone.codec", None)
    assert spec is not None
    assert spec.origin == str(tmp_path / "codec.so")
    assert finder.find_spec("mesh.hbone.machine", None) is None


CHOOSE = """
import json, sys
{first}
from mesh import compiled
form = compiled.choose()
import mesh.hbone.machine
print(json.dumps([form.compiled, form.detail, mesh.hbone.machine.__file__, compiled.current() == form]))
"""


def choice(setting: str | None, first: str = "") -> tuple[bool, str, str]:
    """What a process with this setting runs: the form, the detail, the file of a hot module."""
    environment = {name: value for name, value in os.environ.items() if name != compiled.VARIABLE}
    if setting is not None:
        environment[compiled.VARIABLE] = setting
    line = [sys.executable, "-c", CHOOSE.format(first=first)]
    done = subprocess.run(line, env=environment, cwd=ROOT, capture_output=True, text=True, timeout=60, check=True)
    form, detail, file, kept = json.loads(done.stdout)
    assert kept
    return form, detail, file


def test_the_compiled_form_is_used_unless_switched_off_or_unusable(copy: Path) -> None:
    form, detail, file = choice(None)
    assert (form, detail) == (True, str(compiled.FOLDER))
    assert file.startswith(str(compiled.FOLDER))
    form, detail, file = choice(str(copy / "compiled"))
    assert (form, detail) == (True, str(copy / "compiled"))
    assert file.startswith(str(copy / "compiled"))
    form, detail, file = choice("off")
    assert (form, detail) == (False, "AMBIMESH_COMPILED=off")
    assert file == str(ROOT / "mesh/hbone/machine.py")
    form, detail, file = choice(str(copy / "nowhere"))
    assert not form
    assert "nothing is compiled in" in detail
    assert file == str(ROOT / "mesh/hbone/machine.py")


def test_a_mixture_is_refused() -> None:
    form, detail, file = choice(None, "import mesh.hbone.codec")
    assert (form, detail) == (False, "mesh.addresses was imported before the compiled form was asked for")
    assert file == str(ROOT / "mesh/hbone/machine.py")


def test_these_tests_run_in_the_form_they_were_asked_to() -> None:
    wanted = os.environ.get("AMBIMESH_TEST_FORM", "pure")
    assert compiled.current().name == wanted
    module: Any = sys.modules["mesh.hbone.codec"]
    assert module.__file__.endswith(".so" if wanted == "compiled" else ".py")


# -- both do the same --------------------------------------------------------------------------------------------------


class Transcriber:
    """A process that runs one form."""

    def __init__(self, setting: dict[str, str]) -> None:
        self._process = subprocess.Popen(
            [sys.executable, str(TRANSCRIBE)],
            env={**os.environ, "PYTHONPATH": str(ROOT), **setting},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        self.form, self.detail, self.files = self._read()

    def __call__(self, *jobs: tuple[Any, ...]) -> Any:
        data = pickle.dumps(list(jobs))
        assert self._process.stdin is not None
        self._process.stdin.write(struct.pack(">Q", len(data)) + data)
        self._process.stdin.flush()
        return self._read()

    def _read(self) -> Any:
        assert self._process.stdout is not None
        size = self._process.stdout.read(8)
        assert size, "the other process has ended; its traceback is above"
        return pickle.loads(self._process.stdout.read(struct.unpack(">Q", size)[0]))

    def close(self) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.stdout.close()
        assert self._process.wait(20) == 0


@pytest.fixture(scope="module")
def forms() -> Iterator[tuple[Transcriber, Transcriber]]:
    pure, fast = Transcriber({compiled.VARIABLE: "off"}), Transcriber({compiled.VARIABLE: ""})
    yield pure, fast
    pure.close()
    fast.close()


def same(forms: tuple[Transcriber, Transcriber], *jobs: tuple[Any, ...]) -> Any:
    pure, fast = forms
    expected = pure(*jobs)
    assert fast(*jobs) == expected
    return expected


def test_each_process_runs_its_form(forms: tuple[Transcriber, Transcriber]) -> None:
    pure, fast = forms
    assert (pure.form, fast.form) == ("pure", "compiled")
    modules = compiled.read_manifest(compiled.FOLDER).files
    assert len(modules) > 10
    for name in modules:
        if name.endswith("__mypyc"):
            continue  # what the modules of one group are made of
        assert fast.files[name].startswith(str(compiled.FOLDER)), name
        assert name not in pure.files or pure.files[name].endswith(".py"), name


TEXT = st.text(max_size=12)
NAMES = st.sampled_from([":method", ":authority", ":path", "forwarded", "baggage", "x-forwarded-network"])
VALUES = st.one_of(
    st.sampled_from(["CONNECT", "GET", "10.0.0.1:80", "[fd00::1]:80", "host.example:443", 'for="10.0.0.1:1";host=a']),
    st.sampled_from(["k8s.pod.name=a,service.name=b,k8s.cluster.name=c", "for=10.0.0.1:99999", "127.1:80", "a:b"]),
    TEXT,
)


@settings(max_examples=200)
@given(st.lists(st.tuples(NAMES, VALUES), max_size=6))
def test_requests_are_read_the_same(forms: tuple[Transcriber, Transcriber], headers: list[tuple[str, str]]) -> None:
    same(forms, ("connect", headers), ("connect", [(":method", "CONNECT"), *headers]))


@settings(max_examples=200)
@given(st.binary(max_size=80), st.binary(min_size=1, max_size=3), st.integers(0, 400))
def test_header_blocks_are_read_the_same(
    forms: tuple[Transcriber, Transcriber], block: bytes, change: bytes, place: int
) -> None:
    ours = encode_connect("10.0.0.1:80", forwarded="f" * (place % 300), baggage="b=c")
    changed = ours[:place] + change + ours[place + 1 :]
    assert same(forms, ("block", block), ("block", ours), ("block", changed))[1] is not None


@settings(max_examples=100)
@given(st.text(max_size=300), TEXT, TEXT, st.sampled_from([200, 400, 401, 503, 0, 1234]))
def test_header_blocks_are_written_the_same(
    forms: tuple[Transcriber, Transcriber], authority: str, forwarded: str, baggage: str, status: int
) -> None:
    authority, forwarded, baggage = (
        text.encode("utf-8", "replace").decode() for text in (authority, forwarded, baggage)
    )
    same(forms, ("encode", authority, forwarded, baggage, status))


@settings(max_examples=200)
@given(st.one_of(TEXT, st.ip_addresses().map(str), st.from_regex(r"\A\[?[0-9a-f.:]{1,20}\]?(:|/)[0-9]{1,6}\Z")))
def test_addresses_are_read_and_written_the_same(forms: tuple[Transcriber, Transcriber], text: str) -> None:
    same(forms, ("addresses", text))


FRAMES = st.one_of(
    st.builds(frame, st.just(0), st.sampled_from([0, 1, 8]), st.sampled_from([1, 3, 5, 7]), st.binary(max_size=300)),
    st.builds(
        frame,
        st.just(1),
        st.sampled_from([END_HEADERS, END_HEADERS | 1, 0]),
        st.sampled_from([1, 3, 5, 7, 2]),
        st.sampled_from([encode_connect("10.0.0.1:80"), encode_response(200), encode_response(503), b"\x82"]),
    ),
    st.builds(frame, st.integers(0, 11), st.integers(0, 255), st.integers(0, 9), st.binary(max_size=10)),
    st.builds(frame, st.just(8), st.just(0), st.integers(0, 9), st.sampled_from([b"\0\0\1\0", b"\x7f\xff\xff\xff"])),
    st.builds(frame, st.just(3), st.just(0), st.integers(0, 9), st.just(b"\0\0\0\x08")),
    st.just(settings_frame([(Setting.INITIAL_WINDOW_SIZE, 500), (Setting.MAX_FRAME_SIZE, 16384)])),
)


@settings(max_examples=300)
@given(st.booleans(), st.lists(FRAMES, max_size=30), st.lists(st.integers(0, 400), max_size=20), st.data())
def test_conversations_go_the_same_way(
    forms: tuple[Transcriber, Transcriber], server: bool, frames: list[bytes], cuts: list[int], data: st.DataObject
) -> None:
    stream = (PREFACE if server else b"") + settings_frame([]) + b"".join(frames)
    places = sorted({cut for cut in cuts if cut < len(stream)})
    chunks = [stream[a:b] for a, b in zip([0, *places], [*places, len(stream)], strict=True)]
    deeds = data.draw(
        st.lists(st.tuples(st.integers(0, 6), st.integers(0, 9)), min_size=len(chunks), max_size=len(chunks))
    )
    said, *_ = same(forms, ("conversation", server, chunks, deeds))[0]
    assert said[0]


@settings(max_examples=100)
@given(
    st.sampled_from(["text", "json"]),
    st.lists(TEXT, min_size=5, max_size=5),
    st.lists(st.integers(0, 2**40), min_size=3, max_size=3),
    st.booleans(),
)
def test_access_records_read_the_same(
    forms: tuple[Transcriber, Transcriber], form: str, texts: list[str], numbers: list[int], failed: bool
) -> None:
    assert len(same(forms, ("record", form, texts, numbers, failed))[0]) == 2
