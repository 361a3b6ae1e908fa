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
  if (find("whole-words").checked) parameters.target_mode = "word";
  if (find("joint").checked) parameters.joint = true;
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
function maskGroup(predictions, index, title) {
  const group = element("fieldset");
  group.append(element("legend", "", title));
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
    row.append(bar, element("span", "word", prediction.token_str), element("span", "score", prediction.label ?? percent(prediction.score)));
    label.append(choice, row);
    group.append(label);
  });
  return group;
}

/** The index of the chosen answer of a group. */
const choice = (group) => Number(document.querySelector(`input[name="mask-${group}"]:checked`).value);

/** The fillings of all masks together, as one group. */
function fillingGroup(fillings) {
  const best = fillings[0].log_score;
  const shown = fillings.map((filling) => ({
    score: Math.exp(filling.log_score - best),
    token_str: filling.token_strs.join(" · "),
    label: filling.log_score.toFixed(2),
  }));
  return maskGroup(shown, 0, "All masks together, with the logarithm of the score");
}

/** Shows the text with these predictions in place of its masks. */
function showSentence(sent, chosen) {
  const parts = sent.split(MASK);
  const sentence = find("sentence");
  // The tokenizer found other masks than this split did: show the sentences of the server.
  if (parts.length !== chosen.length + 1) {
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
  if (answer[0]?.token_strs) {
    const chosen = () => {
      const filling = answer[choice(0)];
      return filling.token_strs.map((token_str) => ({ token_str, sequence: filling.sequence }));
    };
    find("masks").replaceChildren(fillingGroup(answer));
    find("masks").onchange = () => showSentence(sent, chosen());
    showSentence(sent, chosen());
    find("result").hidden = false;
    return;
  }
  // For one mask the answer is a list of predictions, for several a list of such lists.
  const masks = Array.isArray(answer[0]) ? answer : [answer];
  const title = (index) => (masks.length > 1 ? `Mask ${index + 1}` : "Mask");
  const chosen = () => masks.map((predictions, index) => predictions[choice(index)]);
  find("masks").replaceChildren(...masks.map((predictions, index) => maskGroup(predictions, index, title(index))));
  find("masks").onchange = () => showSentence(sent, chosen());
  showSentence(sent, chosen());
  find("result").hidden = false;
}

/** Names the targets that the vocabulary lacks. */
function showNote(headers) {
  const replaced = Object.entries(JSON.parse(headers.get("x-replaced-targets") ?? "{}"));
  const unlisted = headers.get("x-replaced-targets-unlisted");
  const words = replaced.map(([word, token]) => (token === null ? `${word} is left out` : `${word} is scored as ${token}`));
  if (unlisted) words.push(`and ${unlisted} more`);
  find("note").textContent = words.length ? `Not in the vocabulary: ${words.join(", ")}.` : "";
  find("note").hidden = !words.length;
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
    if (response.ok) {
      showAnswers(request.inputs, answer);
      showNote(response.headers);
    }
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

/** One sentence, its tokens shaded by surprisal: white at probability 1, darkest from about one in 20,000 on. */
function scoredSentence(sentence, isBest) {
  const box = element("div", isBest ? "scored best" : "scored");
  const tokens = element("p", "tokens");
  for (const { token_str, log_prob } of sentence.token_scores) {
    const piece = token_str.startsWith("##");
    const token = element("span", "token", piece ? token_str.slice(2) : token_str.trim());
    const share = Math.min(1, -(log_prob ?? -10) / 10);
    token.style.background = `color-mix(in srgb, var(--error) ${Math.round(share * 70)}%, transparent)`;
    token.title = log_prob === null ? "probability 0" : `log-probability ${log_prob.toFixed(2)}`;
    if (!piece) tokens.append(" ");
    tokens.append(token);
  }
  const number = (value) => (value === null ? "-" : value.toFixed(2));
  const sum = `${isBest ? "Most likely: " : ""}score ${number(sentence.score)}, perplexity ${number(sentence.perplexity)}`;
  box.append(tokens, element("p", "hint", sum));
  return box;
}

function showScores(answer) {
  const best = Math.max(...answer.map((sentence) => sentence.score ?? -Infinity));
  find("scores").replaceChildren(...answer.map((sentence) => scoredSentence(sentence, sentence.score === best)));
}

async function compare() {
  const inputs = find("sentences").value.split("\n").filter((line) => line.trim());
  const headers = { "content-type": "application/json" };
  if (find("key").value) headers.authorization = `Bearer ${find("key").value}`;
  find("score").ariaBusy = "true";
  let message = "";
  try {
    const body = JSON.stringify({ inputs, parameters: { per_token: true } });
    const response = await fetch("v1/score", { method: "POST", headers, body });
    const answer = await response.json();
    if (response.status === 401) find("key-field").hidden = false;
    if (response.ok) showScores(answer);
    else message = answer.error;
  } catch {
    message = "The server does not answer. Is it still running?";
  }
  find("score-error").textContent = message;
  find("score-error").hidden = !message;
  find("score").ariaBusy = "false";
}

find("score-form").addEventListener("submit", (event) => {
  event.preventDefault();
  compare();
});

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
