// The web page at GET /: sends requests to POST /v1/fill-mask and shows the predictions. URLs are relative, so the page
// also works behind a proxy that serves Cloze under a path prefix.

const ENDPOINT = "v1/fill-mask";
const MASK = document.documentElement.dataset.mask;
const find = (id) => document.getElementById(id);
const form = find("form");
const text = find("text");

/** The request body for the values of the form. */
function requestBody() {
  const request = { inputs: text.value.replace(/_{3,}/g, MASK) };
  const targets = find("targets").value.split(",").map((word) => word.trim()).filter(Boolean);
  // An invalid number is sent unchanged, so that the server's error message is shown.
  const topK = find("top-k").value;
  const parameters = {};
  if (topK !== "5") parameters.top_k = topK === "" ? null : Number(topK);
  if (targets.length) parameters.targets = targets;
  if (Object.keys(parameters).length) request.parameters = parameters;
  return request;
}

/** Quotes a word for a POSIX shell. */
const quoted = (word) => `'${word.replaceAll("'", "'\\''")}'`;

function showCurl() {
  const key = find("key").value ? " -H 'authorization: Bearer YOUR_KEY'" : "";
  const url = new URL(ENDPOINT, location.href);
  find("curl").textContent =
    `curl ${url}${key} -H 'content-type: application/json' -d ${quoted(JSON.stringify(requestBody()))}`;
}

function element(name, className, content) {
  const made = document.createElement(name);
  if (className) made.className = className;
  if (content !== undefined) made.textContent = content;
  return made;
}

function percent(score) {
  if (score >= 0.1) return `${(score * 100).toFixed(1)} %`;
  if (score >= 0.0001) return `${(score * 100).toFixed(2)} %`;
  return "< 0.01 %";
}

/** The predictions of one mask: a group of radio buttons, so that the arrow keys select among them. */
function maskGroup(predictions, index, count) {
  const group = element("fieldset");
  group.append(element("legend", "", count > 1 ? `Mask ${index + 1}` : "Mask"));
  predictions.forEach((prediction, rank) => {
    const label = element("label", "answer");
    const choice = element("input");
    choice.type = "radio";
    choice.name = `mask-${index}`;
    choice.value = String(rank);
    choice.checked = rank === 0;
    const row = element("span", "row");
    const bar = element("span", "bar");
    bar.style.width = `${prediction.score * 100}%`;
    row.append(bar, element("span", "word", prediction.token_str), element("span", "score", percent(prediction.score)));
    label.append(choice, row);
    group.append(label);
  });
  return group;
}

/** Shows the text with the chosen tokens in place of its masks. */
function showSentence(sent, masks) {
  const choice = (index) => document.querySelector(`input[name="mask-${index}"]:checked`).value;
  const chosen = masks.map((predictions, index) => predictions[Number(choice(index))]);
  const parts = sent.split(MASK);
  const sentence = find("sentence");
  // The tokenizer found other masks than this split did: show the sentences of the server.
  if (parts.length !== masks.length + 1) {
    sentence.replaceChildren(...chosen.map((prediction) => element("span", "", `${prediction.sequence} `)));
    return;
  }
  sentence.replaceChildren();
  parts.forEach((part, index) => {
    const word = chosen[index]?.token_str ?? "";
    // A token such as "##s" continues the word before it.
    const piece = word.startsWith("##");
    sentence.append(piece ? part.trimEnd() : part);
    if (index < chosen.length) sentence.append(element("mark", "", piece ? word.slice(2) : word));
  });
}

function showAnswers(sent, answer) {
  // For one mask the answer is a list of predictions, for several a list of such lists.
  const masks = Array.isArray(answer[0]) ? answer : [answer];
  find("masks").replaceChildren(...masks.map((predictions, index) => maskGroup(predictions, index, masks.length)));
  find("masks").onchange = () => showSentence(sent, masks);
  showSentence(sent, masks);
  find("result").hidden = false;
}

function showError(message) {
  find("error").textContent = message;
  find("error").hidden = !message;
  if (message) find("result").hidden = true;
}

/** Shows the latency, with the parts that the server reported. */
function showLatency(started, headers) {
  const parts = [["queue", "x-queue-time-ms"], ["model", "x-inference-time-ms"]]
    .filter(([, header]) => headers.has(header))
    .map(([name, header]) => `${name} ${headers.get(header)} ms`);
  const inside = parts.length ? ` (${parts.join(", ")})` : "";
  find("latency").textContent = `${Math.round(performance.now() - started)} ms${inside}`;
}

let running = null;

async function submit() {
  running?.abort();
  const mine = (running = new AbortController());
  const request = requestBody();
  const headers = { "content-type": "application/json" };
  if (find("key").value) headers.authorization = `Bearer ${find("key").value}`;
  find("submit").ariaBusy = find("result").ariaBusy = "true";
  const started = performance.now();
  try {
    const response = await fetch(ENDPOINT, {
      method: "POST", headers, body: JSON.stringify(request), signal: mine.signal,
    });
    const answer = await response.json();
    if (response.status === 401) {
      find("key-field").hidden = false;
      find("key").focus();
    }
    showError(response.ok ? "" : answer.error);
    if (response.ok) showAnswers(request.inputs, answer);
    showLatency(started, response.headers);
  } catch (error) {
    // A newer request replaced this one.
    if (mine.signal.aborted) return;
    showError(error instanceof SyntaxError
      ? "The answer is not in the form of Cloze; is there a proxy between this page and the server?"
      : "The server does not answer. Is it still running?");
  }
  find("submit").ariaBusy = find("result").ariaBusy = "false";
}

form.addEventListener("submit", (event) => {
  event.preventDefault();
  submit();
});
form.addEventListener("input", showCurl);

text.addEventListener("keydown", (event) => {
  // Enter submits, Shift+Enter is a new line. While an input method composes, Enter belongs to it.
  if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
  event.preventDefault();
  submit();
});

find("add-mask").addEventListener("click", () => {
  text.setRangeText(MASK, text.selectionStart, text.selectionEnd, "end");
  text.focus();
  showCurl();
});

for (const example of document.querySelectorAll(".examples button")) {
  example.addEventListener("click", () => {
    text.value = example.textContent;
    showCurl();
    submit();
  });
}

find("copy").addEventListener("click", async () => {
  try {
    await navigator.clipboard.writeText(find("curl").textContent);
    find("copy").textContent = "Copied";
    setTimeout(() => (find("copy").textContent = "Copy"), 1500);
  } catch {
    // Without TLS a page cannot write to the clipboard: select the text, so that the keyboard can copy it.
    getSelection().selectAllChildren(find("curl"));
  }
});

showCurl();
text.setSelectionRange(text.value.length, text.value.length);
text.focus();
