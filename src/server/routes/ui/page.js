// The page at GET /: asks POST /v1/fill-mask and draws what comes back. Addresses are relative, so that it also
// works behind a proxy that serves Cloze under a path of its own.

const ADDRESS = "v1/fill-mask";
const MASK = document.documentElement.dataset.mask;
const find = (id) => document.getElementById(id);
const form = find("form");
const text = find("text");

/** What the form asks for, as the body of a request. */
function wanted() {
  const request = { inputs: text.value.replace(/_{3,}/g, MASK) };
  const targets = find("targets").value.split(",").map((word) => word.trim()).filter(Boolean);
  // What cannot be a number goes to the server as it is, which says what is wrong with it.
  const topK = find("top-k").value;
  const parameters = {};
  if (topK !== "5") parameters.top_k = topK === "" ? null : Number(topK);
  if (targets.length) parameters.targets = targets;
  if (Object.keys(parameters).length) request.parameters = parameters;
  return request;
}

/** A word for a POSIX shell. */
const quoted = (word) => `'${word.replaceAll("'", "'\\''")}'`;

function showCurl() {
  const key = find("key").value ? " -H 'authorization: Bearer YOUR_KEY'" : "";
  const address = new URL(ADDRESS, location.href);
  find("curl").textContent =
    `curl ${address}${key} -H 'content-type: application/json' -d ${quoted(JSON.stringify(wanted()))}`;
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

/** One blank's answers: a group of radio buttons, so that the arrow keys walk through them. */
function blank(answers, index, count) {
  const group = element("fieldset");
  group.append(element("legend", "", count > 1 ? `Blank ${index + 1}` : "In the blank"));
  answers.forEach((answer, rank) => {
    const label = element("label", "answer");
    const choice = element("input");
    choice.type = "radio";
    choice.name = `blank-${index}`;
    choice.value = String(rank);
    choice.checked = rank === 0;
    const row = element("span", "row");
    const bar = element("span", "bar");
    bar.style.width = `${answer.score * 100}%`;
    row.append(bar, element("span", "word", answer.token_str), element("span", "score", percent(answer.score)));
    label.append(choice, row);
    group.append(label);
  });
  return group;
}

/** The text with the chosen words in its blanks. */
function showSentence(sent, blanks) {
  const choice = (index) => document.querySelector(`input[name="blank-${index}"]:checked`).value;
  const chosen = blanks.map((answers, index) => answers[Number(choice(index))]);
  const parts = sent.split(MASK);
  const sentence = find("sentence");
  // A mask token that the tokenizer reads otherwise than we do: show what the server made of it.
  if (parts.length !== blanks.length + 1) {
    sentence.replaceChildren(...chosen.map((answer) => element("span", "", `${answer.sequence} `)));
    return;
  }
  sentence.replaceChildren();
  parts.forEach((part, index) => {
    const word = chosen[index]?.token_str ?? "";
    // A piece such as "##s" continues the word before it.
    const piece = word.startsWith("##");
    sentence.append(piece ? part.trimEnd() : part);
    if (index < chosen.length) sentence.append(element("mark", "", piece ? word.slice(2) : word));
  });
}

function showAnswers(sent, answer) {
  // One blank is answered with a list of answers, several with a list of such lists.
  const blanks = Array.isArray(answer[0]) ? answer : [answer];
  find("blanks").replaceChildren(...blanks.map((answers, index) => blank(answers, index, blanks.length)));
  find("blanks").onchange = () => showSentence(sent, blanks);
  showSentence(sent, blanks);
  find("result").hidden = false;
}

function showError(message) {
  find("error").textContent = message;
  find("error").hidden = !message;
  if (message) find("result").hidden = true;
}

/** Where the time went, as far as the server told. */
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
  const request = wanted();
  const headers = { "content-type": "application/json" };
  if (find("key").value) headers.authorization = `Bearer ${find("key").value}`;
  find("submit").ariaBusy = find("result").ariaBusy = "true";
  const started = performance.now();
  try {
    const response = await fetch(ADDRESS, {
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
    // A newer request took over.
    if (mine.signal.aborted) return;
    showError(error instanceof SyntaxError
      ? "The answer is not what Cloze would send; is there something between this page and the server?"
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
  // Enter asks; with Shift it is a new line. While an input method composes, it is the method's.
  if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
  event.preventDefault();
  submit();
});

find("blank").addEventListener("click", () => {
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
    // The clipboard is closed to pages that came without TLS: select it, so that the keyboard can copy.
    getSelection().selectAllChildren(find("curl"));
  }
});

showCurl();
text.setSelectionRange(text.value.length, text.value.length);
text.focus();
