"""Triton's HTTP client, with tensors in JSON and in binary."""

import numpy as np
import pytest
from tritonclient.http import InferenceServerClient, InferInput, InferRequestedOutput
from tritonclient.utils import InferenceServerException

TEXTS = ["She [MASK] born in London in 1950.", "The [MASK] is in the north of [MASK]."]


@pytest.fixture
def client(server):
    with InferenceServerClient(server.url.removeprefix("http://")) as client:
        yield client


def text_input(texts, binary=True, shape=None):
    data = np.array([text.encode() for text in texts], dtype=np.object_).reshape(shape or [len(texts)])
    tensor = InferInput("text", list(data.shape), "BYTES")
    return tensor.set_data_from_numpy(data, binary_data=binary)


def strings(tensor):
    return [[element.decode() if isinstance(element, bytes) else element for element in row] for row in tensor]


def test_health_and_metadata(client):
    assert client.is_server_live() and client.is_server_ready()
    assert client.is_model_ready("demo") and client.is_model_ready("demo", "1")
    assert not client.is_model_ready("other") and not client.is_model_ready("demo", "2")
    assert "binary_tensor_data" in client.get_server_metadata()["extensions"]
    metadata = client.get_model_metadata("demo")
    assert metadata == client.get_model_metadata("demo", "1")
    assert metadata["inputs"] == [{"name": "text", "datatype": "BYTES", "shape": [-1]}]


@pytest.mark.parametrize("binary_in", [True, False])
@pytest.mark.parametrize("binary_out", [True, False])
@pytest.mark.parametrize("shape", [[2], [2, 1]])
def test_infer(client, binary_in, binary_out, shape):
    names = ["text_index", "mask_index", "score", "token", "token_str", "sequence"]
    outputs = [InferRequestedOutput(name, binary_data=binary_out) for name in names]
    inputs = [text_input(TEXTS, binary_in, shape)]
    result = client.infer("demo", inputs, outputs=outputs, request_id="42", parameters={"top_k": 3})
    assert result.get_response()["id"] == "42"
    tensors = {name: result.as_numpy(name) for name in names}
    # One row for each mask: one in the first text, two in the second.
    assert tensors["text_index"].tolist() == [0, 1, 1] and tensors["mask_index"].tolist() == [0, 0, 1]
    assert all(tensors[name].shape == (3, 3) for name in names[2:])
    assert tensors["score"].dtype == np.float32 and tensors["token"].dtype == np.int32
    assert (np.diff(tensors["score"], axis=1) <= 0).all()
    assert strings(tensors["token_str"])[0][0] == "was"
    assert strings(tensors["sequence"])[0][0] == "she was born in london in 1950."


def test_all_outputs_come_in_binary_by_default(client):
    result = client.infer("demo", [text_input(TEXTS)], model_version="1")
    assert all("binary_data_size" in output["parameters"] for output in result.get_response()["outputs"])
    assert result.as_numpy("score").shape == (3, 5)


@pytest.mark.parametrize("targets", [["is", "were"], "were, is"])
def test_targets(client, targets):
    result = client.infer("demo", [text_input(TEXTS[:1])], parameters={"targets": targets})
    assert strings(result.as_numpy("token_str")) == [["is", "were"]]


def test_scheduling_parameters_are_ignored(client):
    client.infer("demo", [text_input(TEXTS)], priority=1, timeout=10_000_000, sequence_id=7, sequence_start=True)


@pytest.mark.parametrize("texts, status, says", [
    (["nothing to fill"], "400", "no mask"),
    (["word " * 300 + "[MASK]"], "422", "tokens long"),
])  # fmt: skip
def test_errors_are_sentences(client, texts, status, says):
    with pytest.raises(InferenceServerException) as error:
        client.infer("demo", [text_input(texts)])
    assert error.value.status() == status and says in error.value.message()


def test_an_unknown_model(client):
    with pytest.raises(InferenceServerException, match="There is no model") as error:
        client.infer("other", [text_input(TEXTS)])
    assert error.value.status() == "404"


def test_a_compressed_request_is_refused(client):
    with pytest.raises(InferenceServerException, match="uncompressed") as error:
        client.infer("demo", [text_input(TEXTS)], request_compression_algorithm="gzip")
    assert error.value.status() == "415"
