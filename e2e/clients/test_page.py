"""The page in a real browser: Debian's Chromium through its driver."""

import shutil

import pytest
from selenium import webdriver
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.ui import WebDriverWait

FLAGS = [
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
]  # fmt: skip


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    binary, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if not (binary and driver):
        pytest.skip("needs chromium and chromedriver (Debian: chromium, chromium-driver)")
    options = webdriver.ChromeOptions()
    options.binary_location = binary
    for flag in [*FLAGS, f"--user-data-dir={tmp_path_factory.mktemp('chromium')}"]:
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    running = webdriver.Chrome(options=options, service=Service(driver))
    yield running
    running.quit()


class Page:
    """Actions on the page, and its content."""

    def __init__(self, browser, url, width=1200):
        self.browser = browser
        browser.get_log("browser")
        browser.execute_cdp_cmd(
            "Emulation.setDeviceMetricsOverride",
            {"width": width, "height": 800, "deviceScaleFactor": 1, "mobile": width < 600},
        )
        browser.get(url)

    def __getitem__(self, id):
        return self.browser.find_element(By.ID, id)

    def all(self, selector):
        return self.browser.find_elements(By.CSS_SELECTOR, selector)

    def write(self, id, text):
        self[id].clear()
        self[id].send_keys(text)

    def ask(self, text):
        self.write("text", text + Keys.ENTER)
        self.settle()

    def settle(self):
        WebDriverWait(self.browser, 20).until(lambda _: self["submit"].get_attribute("aria-busy") == "false")

    def words(self):
        return [word.text for word in self.all("#masks .word")]

    def errors(self):
        """Errors in the browser's log, without answers of status 4xx and recommendations."""
        entries = [entry for entry in self.browser.get_log("browser") if entry["source"] != "recommendation"]
        return [entry for entry in entries if "server responded with a status of 4" not in entry["message"]]


@pytest.fixture
def page(browser, server):
    page = Page(browser, server.url)
    yield page
    assert page.errors() == []


def test_ask_and_read_the_bars(page, server):
    page["submit"].click()
    page.settle()
    assert page.words()[:2] == ["was", "is"] and len(page.words()) == 5
    assert page["sentence"].text == "She was born in London in 1950."
    # The likeliest answer has the longest bar; its length is its probability.
    bars = [bar.size["width"] for bar in page.all("#masks .bar")]
    row = page.all("#masks .row")[0].size["width"]
    assert bars == sorted(bars, reverse=True)
    score = float(page.all("#masks .score")[0].text.rstrip(" %"))
    assert score > 90 and abs(bars[0] / row * 100 - score) < 2
    assert page["model"].text == "demo" and "cpu" in page["device"].text
    assert " ms" in page["latency"].text


def test_the_keyboard_alone(page):
    page["text"].send_keys(Keys.ENTER)
    page.settle()
    # The arrow keys choose an answer, and the sentence shows it.
    choice = page.all("#masks input")[0]
    choice.send_keys(Keys.ARROW_DOWN)
    assert page["sentence"].text == "She is born in London in 1950."


def test_how_many_and_which_words(page):
    page.write("top-k", "2")
    page["submit"].click()
    page.settle()
    assert page.words() == ["was", "is"]
    page.write("targets", "were, is")
    page["submit"].click()
    page.settle()
    assert page.words() == ["is", "were"]
    assert page["curl"].text.endswith("""'{"inputs":"She [MASK] born in London in 1950.","""
                                      """"parameters":{"top_k":2,"targets":["were","is"]}}'""")  # fmt: skip


def test_several_masks_side_by_side(page):
    page.ask("The [MASK] is in the north of ___.")
    first, second = page.all("#masks fieldset")
    assert first.location["y"] == second.location["y"] and first.location["x"] < second.location["x"]
    words = page.words()
    assert len(words) == 10
    assert page["sentence"].text == f"The {words[0]} is in the north of {words[5]}."
    page.all("#masks fieldset:nth-child(2) .row")[3].click()
    assert page["sentence"].text == f"The {words[0]} is in the north of {words[8]}."


def test_masks_filled_together(page):
    page.write("top-k", "3")
    page["joint"].click()
    page.ask("The [MASK] is in the north of [MASK].")
    assert len(page.all("#masks fieldset")) == 1
    first, second = page.words()[0].split(" · ")
    assert len(page.words()) == 3
    assert page["sentence"].text == f"The {first} is in the north of {second}."
    page.all("#masks .row")[1].click()
    first, second = page.words()[1].split(" · ")
    assert page["sentence"].text == f"The {first} is in the north of {second}."


def test_whole_words_and_a_note_on_replaced_ones(page):
    page.write("targets", "london, ornithology")
    page.ask("She lives in [MASK].")
    assert "ornithology is scored as" in page["note"].text
    page["whole-words"].click()
    page["submit"].click()
    page.settle()
    assert set(page.words()) == {"london", "ornithology"}
    assert not page["note"].is_displayed()


def test_sentences_side_by_side(page):
    page["compare"].find_element(By.TAG_NAME, "summary").click()
    page["score"].click()
    WebDriverWait(page.browser, 20).until(lambda _: page["score"].get_attribute("aria-busy") == "false")
    first, second = page.all(".scored")
    assert first.location["y"] == second.location["y"]
    assert first.text.startswith("the children are playing in the garden .")
    assert "Most likely" in first.text and "Most likely" not in second.text
    shades = [token.value_of_css_property("background-color") for token in first.find_elements(By.CLASS_NAME, "token")]
    assert len(shades) == 8 and len(set(shades)) > 3
    page.write("sentences", " ")
    page["score"].click()
    WebDriverWait(page.browser, 20).until(lambda _: page["score-error"].is_displayed())
    assert "at least one text" in page["score-error"].text


def test_a_text_as_a_sparse_vector(page):
    page["sparse"].find_element(By.TAG_NAME, "summary").click()
    page.write("sparse-text", "The children are playing.")
    page["vectorize"].click()
    WebDriverWait(page.browser, 20).until(lambda _: page.all("#vector .row"))
    rows = page.all("#vector .row")
    assert len(rows) == 40
    weights = [float(row.find_element(By.CLASS_NAME, "score").text) for row in rows]
    assert weights == sorted(weights, reverse=True)
    # Tokens, not ids.
    assert any(row.find_element(By.CLASS_NAME, "word").text.isalpha() for row in rows)
    page.write("sparse-text", " ")
    page["vectorize"].click()
    WebDriverWait(page.browser, 20).until(lambda _: page["sparse-error"].is_displayed())


def test_tokens_are_counted_while_typing(page):
    WebDriverWait(page.browser, 20).until(lambda _: page["tokens"].text == "10 of 256 tokens")
    page.write("text", "a [MASK] " + "word " * 300)
    WebDriverWait(page.browser, 20).until(lambda _: page["tokens"].text == "304 of 256 tokens")
    assert "over" in page["tokens"].get_attribute("class")
    # The button is below the text, however long it is.
    field, button = page["text"].rect, page["add-mask"].rect
    assert button["y"] >= field["y"] + field["height"]


def test_a_word_at_the_beginning_has_a_capital(page):
    page.ask("[MASK] was born in London.")
    word = page.words()[0]
    assert page["sentence"].text == f"{word.capitalize()} was born in London."
    page.ask("IT IS A SMALL [MASK] IN ENGLAND.")
    assert page["sentence"].text == page["sentence"].text.upper()


def test_the_demo_model_is_named_as_such(browser, server):
    page = Page(browser, server.url)
    assert "demo model" in page["demo"].text


def test_errors_in_words(page):
    page.ask("no mask here")
    assert page["error"].text == "The text has no mask; write [MASK] where a word is missing."
    assert not page["result"].is_displayed()
    page.write("top-k", "0")
    page.ask("a [MASK]")
    assert "top_k is 0" in page["error"].text
    page.write("top-k", "5")
    page.ask("a [MASK] again")
    assert not page["error"].is_displayed() and page["result"].is_displayed()


def test_markup_in_a_text_is_text(page):
    page.ask("<img src=x onerror=alert(1)> [MASK] <b>bold</b>")
    assert page["sentence"].text.startswith("<img src=x onerror=alert(1)>")
    assert not page.all("#result img, #result b")


def test_the_curl_line_works(page):
    import shlex
    import subprocess

    page.write("text", "It's a \"small\" [MASK] in England, isn't it $HOME `date`?")
    command = shlex.split(page["curl"].text)
    assert command[0] == "curl"
    answer = subprocess.run([*command, "--silent", "--fail"], capture_output=True, text=True, check=True).stdout
    assert '"score"' in answer and "$ home" in answer


def test_the_python_program_works(page):
    import subprocess
    import sys

    page.write("text", "It's a \"small\" [MASK] in England, isn't it?")
    page["joint"].click()
    program = page["python"].get_attribute("textContent")
    answer = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
    assert "'token_strs'" in answer and "england" in answer


def open_all(page):
    """Opens every part of the page and fills it."""
    page["submit"].click()
    page.settle()
    for summary in page.all("details:not([open]) > summary"):
        summary.click()
    page["score"].click()
    page["vectorize"].click()
    WebDriverWait(page.browser, 20).until(lambda _: page.all(".scored") and page.all("#vector .row"))


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [375, 1200])
def test_axe_finds_nothing(browser, server, width, scheme):
    import importlib.resources

    axe = importlib.resources.files("axe_core_python").joinpath("axe.min.js").read_text()
    run = "const [parts, done] = arguments; axe.run(parts).then((result) => done(result.violations));"
    browser.execute_cdp_cmd(
        "Emulation.setEmulatedMedia", {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
    )
    page = Page(browser, server.url, width)
    open_all(page)
    browser.execute_script(axe)
    assert browser.execute_async_script(run, "body") == []
    page = Page(browser, f"{server.url}/docs", width)
    WebDriverWait(browser, 20).until(lambda _: page.all(".operation"))
    page.all(".operation > summary")[0].click()
    browser.execute_script(axe)
    # One operation is enough: all have the same parts.
    assert browser.execute_async_script(run, "header, nav, .operation[open], footer") == []


@pytest.mark.parametrize("width", [320, 390, 1200])
def test_nothing_is_wider_than_the_screen(browser, server, width):
    page = Page(browser, server.url, width)
    page.ask("The [MASK] is in the north of [MASK]. " + "Donaudampfschifffahrt" * 8)
    assert page["result"].is_displayed()
    assert browser.execute_script("return document.documentElement.scrollWidth") <= width


def test_dark_mode_follows_the_system(browser, server):
    def background(scheme):
        browser.execute_cdp_cmd(
            "Emulation.setEmulatedMedia", {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
        )
        color = browser.execute_script("return getComputedStyle(document.body).backgroundColor")
        return sum(int(part) for part in color.removeprefix("rgb(").rstrip(")").split(","))

    browser.get(server.url)
    assert background("dark") < 150 < 600 < background("light")


def test_nothing_comes_from_elsewhere(browser, server):
    import json

    browser.get_log("performance")
    page = Page(browser, server.url)
    page["submit"].click()
    page.settle()
    messages = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    sent = [entry["params"]["request"]["url"] for entry in messages if entry["method"] == "Network.requestWillBeSent"]
    assert {f"{server.url}/", f"{server.url}/page.js", f"{server.url}/v1/fill-mask"} <= set(sent)
    assert [url for url in sent if not url.startswith(server.url + "/")] == []


def test_a_server_that_is_gone_is_said_so(browser):
    from conftest import Server

    with Server() as server:
        page = Page(browser, server.url)
    page["submit"].click()
    page.settle()
    assert "does not answer" in page["error"].text


def test_docs_draw_every_operation_and_send_a_request(browser, server):
    page = Page(browser, f"{server.url}/docs#fillMaskV1")
    WebDriverWait(browser, 20).until(lambda _: page.all(".operation"))
    document = browser.execute_script("return fetch('openapi.json').then((answer) => answer.json())")
    operations = [operation["operationId"] for path in document["paths"].values() for operation in path.values()]
    assert sorted(section.get_attribute("id") for section in page.all(".operation")) == sorted(operations)
    # Each operation once, and no key where none is needed.
    paths = [path.text for path in page.all(".path")]
    assert len(paths) == len(operations) and paths.count("/v1/fill-mask") == 1
    assert not page["key-field"].is_displayed()
    form = page["fillMaskV1"].find_element(By.CSS_SELECTOR, "form")
    form.find_element(By.CSS_SELECTOR, "button").click()
    result = form.find_element(By.CSS_SELECTOR, ".result")
    WebDriverWait(browser, 20).until(lambda _: result.text.startswith("200 "))
    assert '"token_str": "was"' in result.text
    assert page.errors() == []


def test_docs_send_the_key(browser):
    from conftest import Server

    with Server("--api-key", "secret-1") as server:
        page = Page(browser, f"{server.url}/docs#tokens")
        WebDriverWait(browser, 20).until(lambda _: page.all(".operation"))
        form = page["tokens"].find_element(By.CSS_SELECTOR, "form")
        result = form.find_element(By.CSS_SELECTOR, ".result")
        form.find_element(By.CSS_SELECTOR, "button").click()
        WebDriverWait(browser, 20).until(lambda _: result.text.startswith("401 "))
        page["key"].send_keys("secret-1")
        form.find_element(By.CSS_SELECTOR, "button").click()
        WebDriverWait(browser, 20).until(lambda _: result.text.startswith("200 "))
        assert "needs the key" in page["tokens"].text
        assert page.errors() == []
