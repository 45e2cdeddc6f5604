"""The openai annotator against a server and a model that nobody here wrote: llama.cpp and SmolLM2-135M."""

from __future__ import annotations

import asyncio
import io
import os
import pathlib
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest
from PIL import Image

from features.annotators.local_llm import LocalLlm, model_file
from features.annotators.model import ModelAnnotator
from features.annotators.openai_compatible import OpenAIClient
from features.annotators.packing import Separately
from features.annotators.prompt import PromptWriter
from features.annotators.protocol import AnnotationReply, AnnotationRequest, AnnotatorIdentity, Around
from features.annotators.settings import ModelSettings, PromptSettings
from features.attributes.definition import AttributeDefinition
from features.errors import InvalidInput, Permanent, Transient, Unavailable
from features.records import Frame, VideoFeatures

PROJECT = pathlib.Path(__file__).resolve().parents[3]


def asks_about(name: str, definition: str = "") -> AttributeDefinition:
    return AttributeDefinition(
        name=name,
        title=name.title(),
        question=f"Is this video {name}?",
        definition=definition or f"A video is {name} when most viewers would say so.",
        evidence=("frames", "title", "description"),
    )


DEFINITIONS = (asks_about("cozy"), asks_about("funny"))
VIDEO = VideoFeatures(
    "clip-1", "", "clip-1", "test", title="Cat falls off the sofa", description="It tries again, and falls again."
)


@pytest.fixture(scope="module")
def gguf() -> pathlib.Path:
    """The tiny model, where it is installed."""
    pytest.importorskip("xllamacpp", reason="xllamacpp is not installed: pip install 'vidattr[llm]'")
    try:
        return model_file("smollm")
    except InvalidInput as error:
        pytest.skip(str(error))


@pytest.fixture(scope="module")
def served(gguf: pathlib.Path) -> Iterator[LocalLlm]:
    with LocalLlm(gguf, alias="smollm", context=1024, threads=1) as llm:
        yield llm


def annotator(
    base_url: str, prompts: PromptSettings, model: ModelSettings | None = None, by_first_token: bool = False
) -> ModelAnnotator:
    settings = model or ModelSettings(name="smollm", base_url=base_url, timeout_s=120)
    writer = PromptWriter(prompts, settings, definitions=DEFINITIONS)
    identity = AnnotatorIdentity("llm", settings.name, writer.version, writer.parameters)
    return ModelAnnotator(OpenAIClient(settings), writer, identity, lambda _: 0.0, by_first_token=by_first_token)


def asked(asking: ModelAnnotator | Around, request: AnnotationRequest) -> AnnotationReply:
    async def one() -> AnnotationReply:
        asking.open()
        try:
            return await asking.annotate(request)
        finally:
            await asking.close()

    return asyncio.run(one())


TOGETHER = PromptSettings(evidence="text", frames=0, rationale=False, moments=False)
EACH = PromptSettings(ask="each", evidence="text", frames=0)


def test_a_reply_is_bound_to_its_schema(served: LocalLlm) -> None:
    reply = asked(annotator(served.base_url, TOGETHER), AnnotationRequest(VIDEO, DEFINITIONS[:1]))
    assert not reply.refusals and not reply.why_pending
    (answer,) = reply.answers
    assert answer.attribute == "cozy" and answer.value in ("true", "false") and answer.model == "smollm"
    assert answer.probability is None or 0 <= answer.probability <= 1
    assert reply.spent.requests == 1 and reply.spent.input_tokens > 200 and reply.spent.output_tokens > 10


def test_a_reply_that_was_cut_off_is_never_accepted(served: LocalLlm) -> None:
    settings = ModelSettings(name="smollm", base_url=served.base_url, timeout_s=120, max_output_tokens=12)
    reply = asked(annotator(served.base_url, TOGETHER, settings), AnnotationRequest(VIDEO, DEFINITIONS[:1]))
    assert reply.answers == ()
    assert [refusal.kind for refusal in reply.refusals] == ["cut_off"]
    assert reply.spent.output_tokens == 12


def test_the_second_question_reads_the_video_from_the_cache_and_both_have_a_probability(served: LocalLlm) -> None:
    video = VideoFeatures("clip-2", "", "clip-2", "test", title="Dog in a tutu", description="It dances until the music stops.")
    reply = asked(Separately(annotator(served.base_url, EACH, by_first_token=True)), AnnotationRequest(video, DEFINITIONS))
    assert not reply.refusals
    first, second = reply.answers
    assert second.cached_input_tokens > first.cached_input_tokens
    assert second.cached_input_tokens > second.input_tokens / 2
    for answer in reply.answers:
        assert answer.probability is not None and 0 < answer.probability < 1
        assert answer.value == ("true" if answer.probability > 0.5 else "false")


def test_frames_for_a_model_without_eyes_stop_the_run_with_the_remedy(served: LocalLlm) -> None:
    picture = io.BytesIO()
    Image.new("RGB", (32, 32), "teal").save(picture, "JPEG")
    seen = VideoFeatures("clip-3", "", "clip-3", "test", title="Sea", frames=(Frame(0.5, 32, 32, picture.getvalue()),))
    shown = annotator(served.base_url, PromptSettings(rationale=False))
    with pytest.raises(Unavailable, match=r"'smollm' cannot see.*--evidence text.*--mmproj FILE"):
        asked(shown, AnnotationRequest(seen, DEFINITIONS))


def test_a_prompt_that_does_not_fit_is_this_requests_own_fault(served: LocalLlm) -> None:
    long = asks_about("odd", "A video is odd when one two three four five six seven eight nine ten. " * 120)
    with pytest.raises(Permanent, match="context") as refusal:
        asked(annotator(served.base_url, TOGETHER), AnnotationRequest(VIDEO, (long,)))
    assert refusal.value.kind == "too_large"


def test_a_token_is_asked_for_and_not_in_the_list_of_processes(gguf: pathlib.Path, tmp_path: pathlib.Path) -> None:
    key = tmp_path / "key"
    key.write_text("open-sesame\n")
    with LocalLlm(gguf, alias="smollm", context=512, threads=1, token="open-sesame") as llm:
        request = AnnotationRequest(VIDEO, DEFINITIONS[:1])
        for line in pathlib.Path("/proc").glob("[0-9]*/cmdline"):
            try:
                assert b"open-sesame" not in line.read_bytes()
            except OSError:
                continue
        with pytest.raises(Unavailable):
            asked(annotator(llm.base_url, EACH), request)
        known = ModelSettings(name="smollm", base_url=llm.base_url, api_key_file=str(key), timeout_s=120)
        assert asked(annotator(llm.base_url, EACH, known, by_first_token=True), request).answers
        gone = llm.base_url
    with pytest.raises(Transient, match="cannot be reached"):
        asked(annotator(gone, EACH), request)


def test_the_server_goes_when_its_parent_is_killed(gguf: pathlib.Path) -> None:
    code = (
        "import sys; from features.annotators.local_llm import LocalLlm\n"
        "with LocalLlm(sys.argv[1], context=512, threads=1) as llm: print(llm.base_url, flush=True); llm.wait()"
    )
    with subprocess.Popen([sys.executable, "-c", code, str(gguf)], stdout=subprocess.PIPE, text=True, cwd=PROJECT) as parent:
        assert parent.stdout is not None
        port = int(parent.stdout.readline().split(":")[2].split("/")[0])
        socket.create_connection(("127.0.0.1", port)).close()
        os.kill(parent.pid, signal.SIGKILL)
        parent.wait()
        with pytest.raises(ConnectionRefusedError):
            for _ in range(200):
                socket.create_connection(("127.0.0.1", port)).close()
                time.sleep(0.05)


class TestMistakes:
    """What is wrong is said before anything is loaded, with the remedy."""

    @pytest.fixture(autouse=True)
    def library(self) -> None:
        pytest.importorskip("xllamacpp", reason="xllamacpp is not installed: pip install 'vidattr[llm]'")

    @pytest.fixture
    def file(self, tmp_path: pathlib.Path) -> pathlib.Path:
        """Begins as a GGUF file does."""
        path = tmp_path / "damaged.gguf"
        path.write_bytes(b"GGUF\x03\0\0\0" + b"\xff" * 100)
        return path

    def test_a_file_that_is_missing_or_of_another_kind(self, tmp_path: pathlib.Path, file: pathlib.Path) -> None:
        (tmp_path / "model.safetensors").write_bytes(b"{}")
        with pytest.raises(InvalidInput, match=r"model\.safetensors.*no GGUF file"):
            LocalLlm(tmp_path / "model.safetensors")
        with pytest.raises(InvalidInput, match=r"gone\.gguf.*cannot be read"):
            LocalLlm(tmp_path / "gone.gguf")
        with pytest.raises(InvalidInput, match=r"mmproj.*eyes\.gguf.*cannot be read"):
            LocalLlm(file, mmproj=tmp_path / "eyes.gguf")

    def test_a_damaged_file_is_refused_in_the_servers_words(self, file: pathlib.Path) -> None:
        with pytest.raises(InvalidInput, match=r"llama\.cpp cannot serve .*damaged\.gguf: .*tensors"):
            LocalLlm(file).__enter__()

    def test_a_port_that_is_taken(self, file: pathlib.Path) -> None:
        with socket.socket() as taken:
            taken.bind(("127.0.0.1", 0))
            taken.listen()
            port = taken.getsockname()[1]
            with pytest.raises(InvalidInput, match=rf"cannot listen on 127\.0\.0\.1:{port} .*choose another --port"):
                LocalLlm(file, port=port).__enter__()

    def test_others_reach_it_with_a_token_only(self, file: pathlib.Path) -> None:
        with pytest.raises(InvalidInput, match=r"0\.0\.0\.0.*set a token"):
            LocalLlm(file, host="0.0.0.0")
        LocalLlm(file, host="0.0.0.0", token="open-sesame")

    @pytest.mark.parametrize(("name", "value"), [("slots", 0), ("context", 12), ("threads", -1), ("port", 70_000)])
    def test_numbers_have_ranges(self, file: pathlib.Path, name: str, value: int) -> None:
        with pytest.raises(InvalidInput, match=f"{name} is {value}; write a number from"):
            LocalLlm(file, **{name: value})  # type: ignore[arg-type]

    def test_an_address_is_known_only_while_it_runs(self, file: pathlib.Path) -> None:
        with pytest.raises(RuntimeError, match="enter it first"):
            _ = LocalLlm(file).base_url


def test_without_the_library_the_extra_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: pathlib.Path) -> None:
    monkeypatch.setitem(sys.modules, "xllamacpp", None)
    (tmp_path / "model.gguf").write_bytes(b"GGUF")
    with pytest.raises(InvalidInput, match=r"pip install 'vidattr\[llm\]'"):
        LocalLlm(tmp_path / "model.gguf")


def test_models_by_name(tmp_path: pathlib.Path) -> None:
    with pytest.raises(InvalidInput, match=r"'gpt-5'.*smollm, qwen2\.5-1\.5b.*--gguf FILE"):
        model_file("gpt-5")
    with pytest.raises(InvalidInput, match=r"vidattr weights install qwen2\.5-1\.5b"):
        model_file("qwen2.5-1.5b", tmp_path)
