"""`huggingface_hub.InferenceClient`."""

import pytest
from huggingface_hub import InferenceClient
from huggingface_hub.errors import HfHubHTTPError

TEXT = "She [MASK] born in London in 1950."


@pytest.fixture(params=["", "/v1/fill-mask"])
def url(server, request):
    return server.url + request.param


def test_fill_mask(url):
    answer = InferenceClient().fill_mask(TEXT, model=url)
    assert len(answer) == 5
    assert answer[0].token_str == "was" and answer[0].sequence == "she was born in london in 1950."
    assert answer[0].score > answer[1].score > 0 and isinstance(answer[0].token, int)


def test_parameters(url):
    client = InferenceClient(model=url)
    assert len(client.fill_mask(TEXT, top_k=2)) == 2
    answer = client.fill_mask(TEXT, targets=["is", "were"])
    assert [prediction.token_str for prediction in answer] == ["is", "were"]


def test_several_masks(url):
    first, second = InferenceClient(model=url).fill_mask("The [MASK] is in the north of [MASK].", top_k=3)
    assert len(first) == len(second) == 3
    assert first[0].token_str == "city"


def test_an_error_is_a_sentence(url):
    with pytest.raises(HfHubHTTPError) as error:
        InferenceClient(model=url).fill_mask("no mask here")
    assert error.value.response.status_code == 400
    assert "The text has no mask" in error.value.response.json()["error"]
