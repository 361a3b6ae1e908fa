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

/** A JSON value as a Python literal. */
function python(value) {
  if (value === null) return "None";
  if (typeof value === "boolean") return value ? "True" : "False";
  if (Array.isArray(value)) return `[${value.map(python).join(", ")}]`;
  if (typeof value === "object") {
    return `{${Object.entries(value).map(([key, field]) => `${python(key)}: ${python(field)}`).join(", ")}}`;
  }
  // The escapes of a JSON string mean the same in Python.
  return JSON.stringify(value);
}

/** Shows the request as a shell command and as a Python program. */
function showSnippets() {
  const hasKey = Boolean(find("key").value);
  const url = new URL(ENDPOINT, location.href);
  const body = requestBody();
  const key = hasKey ? " -H 'authorization: Bearer YOUR_KEY'" : "";
  find("curl").textContent =
    `curl ${url}${key} -H 'content-type: application/json' -d ${quoted(JSON.stringify(body))}`;
  find("python").textContent = [
    "import requests",
    "",
    "answer = requests.post(",
    `    ${python(String(url))},`,
    `    json=${python(body)},`,
    ...(hasKey ? ['    headers={"authorization": "Bearer YOUR_KEY"},'] : []),
    ")",
    "answer.raise_for_status()",
    "print(answer.json())",
  ].join("\n");
}

/** Sends a request with the key of the form, if there is one. */
function post(path, body, signal) {
  const headers = { "content-type": "application/json" };
  if (find("key").value) headers.authorization = `Bearer ${find("key").value}`;
  return fetch(path, { method: "POST", headers, body: JSON.stringify(body), signal });
}

/** Milliseconds without a key press before the tokens are counted. */
const COUNT_DELAY = 300;
let counting = null;

/** Shows how many tokens the text has and may have. */
function countTokens() {
  counting?.abort();
  const mine = (counting = new AbortController());
  const count = async () => {
    if (mine.signal.aborted) return;
    try {
      const response = await post("v1/tokens", { inputs: requestBody().inputs }, mine.signal);
      if (!response.ok) throw new Error(response.statusText);
      const { count, max_tokens } = await response.json();
      find("tokens").textContent = `${count} of ${max_tokens} tokens`;
      find("tokens").classList.toggle("over", count > max_tokens);
    } catch {
      if (!mine.signal.aborted) find("tokens").textContent = "";
    }
  };
  setTimeout(count, COUNT_DELAY);
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
    const word = (chosen[index]?.token_str ?? "").trim();
    // A token such as "##s" continues the word before it.
    const piece = word.startsWith("##");
    sentence.append(piece ? part.trimEnd() : part);
    if (index < chosen.length) {
      sentence.append(element("mark", "", piece ? word.slice(2) : inCaseOf(sent, sentence.textContent, word)));
    }
  });
}

/** A word of a model without capitals in the case of the text: capitals in a text of capitals, a capital where a sentence
 * begins. */
function inCaseOf(text, before, word) {
  const letters = text.replaceAll(MASK, "");
  if (letters !== letters.toLowerCase() && letters === letters.toUpperCase()) return word.toUpperCase();
  const begins = /(^|[.!?]\s+)["'(\s]*$/.test(before);
  return begins && letters !== letters.toLowerCase() ? word.charAt(0).toUpperCase() + word.slice(1) : word;
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

function askForKey() {
  find("key-field").hidden = false;
  find("key").focus();
}

let running = null;

async function submit() {
  running?.abort();
  const mine = (running = new AbortController());
  const request = requestBody();
  find("submit").ariaBusy = find("result").ariaBusy = "true";
  const started = performance.now();
  try {
    const response = await post(ENDPOINT, request, mine.signal);
    const answer = await response.json();
    if (response.status === 401) askForKey();
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
    token.style.background = `color-mix(in srgb, var(--surprise) ${Math.round(share * 100)}%, transparent)`;
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

/** Calls `work` while `button` is busy, and shows the message of its error in `error`. */
async function busy(button, error, work) {
  find(button).ariaBusy = "true";
  let message = "";
  try {
    await work();
  } catch (problem) {
    message = problem instanceof Refusal ? problem.message : "The server does not answer. Is it still running?";
  }
  find(error).textContent = message;
  find(error).hidden = !message;
  find(button).ariaBusy = "false";
}

/** An answer of the server that is an error. */
class Refusal extends Error {}

async function answerOf(path, body) {
  const response = await post(path, body);
  const answer = await response.json();
  if (response.status === 401) askForKey();
  if (!response.ok) throw new Refusal(answer.error);
  return answer;
}

const compare = () => busy("score", "score-error", async () => {
  const inputs = find("sentences").value.split("\n").filter((line) => line.trim());
  showScores(await answerOf("v1/score", { inputs, parameters: { per_token: true } }));
});

/** Entries of a vector that are shown. */
const ENTRIES_MAX = 40;

const vectorize = () => busy("vectorize", "sparse-error", async () => {
  const [vector] = await answerOf("v1/sparse-embeddings", { inputs: find("sparse-text").value });
  const largest = vector.toSorted((a, b) => b.value - a.value).slice(0, ENTRIES_MAX);
  const { tokens } = await answerOf("v1/tokens", { ids: largest.map((entry) => entry.index) });
  const list = element("ol", "entries");
  largest.forEach(({ index, value }, rank) => {
    const entry = element("li", "row");
    const bar = element("span", "bar");
    bar.style.width = `${(value / largest[0].value) * 100}%`;
    entry.append(bar, element("span", "word", tokens[rank].token_str ?? `#${index}`), element("span", "score", value.toFixed(2)));
    list.append(entry);
  });
  const shown = vector.length > largest.length ? `, the ${largest.length} largest shown` : "";
  find("vector").replaceChildren(element("p", "hint", `${vector.length} tokens with a weight${shown}`), list);
});

for (const [id, action] of [["score-form", compare], ["sparse-form", vectorize]]) {
  find(id).addEventListener("submit", (event) => {
    event.preventDefault();
    action();
  });
}

form.addEventListener("submit", (event) => {
  event.preventDefault();
  submit();
});
form.addEventListener("input", showSnippets);
text.addEventListener("input", countTokens);

text.addEventListener("keydown", (event) => {
  // Enter submits, Shift+Enter is a new line. While an input method composes, Enter belongs to it.
  if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
  event.preventDefault();
  submit();
});

find("add-mask").addEventListener("click", () => {
  text.setRangeText(MASK, text.selectionStart, text.selectionEnd, "end");
  text.focus();
  showSnippets();
  countTokens();
});

for (const example of document.querySelectorAll(".examples button")) {
  example.addEventListener("click", () => {
    text.value = example.textContent;
    showSnippets();
    countTokens();
    submit();
  });
}

for (const [id, source] of [["copy", "curl"], ["copy-python", "python"]]) {
  find(id).addEventListener("click", async () => {
    try {
      await navigator.clipboard.writeText(find(source).textContent);
      find(id).textContent = "Copied";
      setTimeout(() => (find(id).textContent = "Copy"), 1500);
    } catch {
      // Without TLS a page cannot write to the clipboard: select the text, so that the keyboard can copy it.
      getSelection().selectAllChildren(find(source));
    }
  });
}

find("demo").hidden = document.documentElement.dataset.demo !== "true";
showSnippets();
countTokens();
text.setSelectionRange(text.value.length, text.value.length);
text.focus();
