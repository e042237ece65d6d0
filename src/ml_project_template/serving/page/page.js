// The page of a served model. It knows the model from `info` alone, and asks `predict` for answers.
// All text from outside is put in as text, never as HTML: a feature may be called anything.

const MANY_FEATURES = 12; // from here on there is a box to find one
const SHOWN_CLASSES = 20;
const SHOWN_LEVELS = 8;
const SHOWN_ROWS = 200;
const SHOWN_COLUMNS = 40;
const SHOWN_MATRIX = 30; // classes; of more, only the commonest mistakes are shown
const ROWS_PER_REQUEST = 1000;
const VALUES_PER_REQUEST = 200_000;
const LONG_PASTE = 50_000; // characters
const LARGEST_FILE = 50 * 2 ** 20; // bytes
const SPLITS = ["train", "val", "test", "cv"];
const SPLIT_NAMES = { train: "Training", val: "Validation", test: "Test", cv: "Cross-validation" };
const VALIDATION = " Validation rows are not learned from: where only their line rises, the model learns by heart.";
const METRICS = {
  accuracy: "the part of the rows whose class was found",
  balanced_accuracy: "the same, with each class counted alike",
  f1_macro: "1 is best: few misses and few false alarms, each class counted alike",
  loss: "what training makes small; lower is better",
  log_loss: "how far the probabilities are off; lower is better",
  roc_auc: "how well the classes are told apart: 0.5 is guessing, 1 is best",
  rmse: "how far the numbers are off, large mistakes counted more; in the unit of the target",
  mae: "how far the numbers are off on average, in the unit of the target",
  r2: "the part of the target's spread that is explained: 1 is best, 0 is guessing the mean",
};

const state = {
  info: null,
  models: [],
  name: null, // of the model that is shown
  wanted: null, // the one that could not be loaded; null is the server's default
  token: null,
  retry: null, // what a token was missing for
  sample: 0,
  fields: [],
  loading: 0, // counts loads of a model, so that a late answer is known as such
  asked: 0, // likewise for predictions
  answered: false, // whether an answer is shown
  scoring: null, // an AbortController
  scored: null,
};

// ---------------------------------------------------------------- Small tools

const $ = (id) => document.getElementById(id);

function make(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  return fill(element, attributes, children);
}

function draw(tag, attributes = {}, ...children) {
  const element = document.createElementNS("http://www.w3.org/2000/svg", tag);
  return fill(element, attributes, children);
}

function fill(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (value !== null && value !== undefined && value !== false) element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.filter((child) => child !== null && child !== undefined));
  return element;
}

function tell(element, text) {
  element.textContent = text ?? "";
  element.hidden = !text;
}

const isNumber = (value) => typeof value === "number" && Number.isFinite(value);
const list = (value) => (Array.isArray(value) ? value : []);
const table = (value) => (value && typeof value === "object" && !Array.isArray(value) ? value : {});
const has = (object, key) => Object.prototype.hasOwnProperty.call(object, key);
const count = (number, one, many = `${one}s`) => `${number.toLocaleString("en")} ${number === 1 ? one : many}`;
const brief = (text, length = 60) => (text.length > length ? `${text.slice(0, length)}…` : text);

function show(value, digits = 6) {
  if (!isNumber(value)) return "–";
  return String(Number(value.toPrecision(digits)));
}

function percent(share) {
  if (!isNumber(share)) return "–";
  if (share > 0 && share < 0.0005) return "< 0.1 %";
  if (share < 1 && share > 0.9995) return "> 99.9 %";
  return `${(share * 100).toFixed(1)} %`;
}

// ---------------------------------------------------------------- The server

class ServerError extends Error {
  constructor(message, status, wait = null) {
    super(message);
    this.status = status;
    this.wait = wait; // seconds
  }
}

async function ask(path, body, signal) {
  const headers = {};
  if (state.token !== null) headers.Authorization = `Bearer ${state.token}`;
  const options = { headers, signal, cache: "no-store" };
  if (body !== undefined) {
    headers["Content-Type"] = "application/json";
    Object.assign(options, { method: "POST", body: JSON.stringify(body) });
  }
  let answer;
  let text;
  try {
    answer = await fetch(path, options);
    text = await answer.text();
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new ServerError("The server can't be reached. Is it still running?", 0);
  }
  let value;
  try {
    value = JSON.parse(text);
  } catch {
    value = null;
  }
  if (answer.ok && value !== null) return value;
  const wait = Number(answer.headers.get("retry-after")) || null;
  const status = `${answer.status} ${answer.statusText}`.trim();
  let detail = table(value).detail;
  if (detail !== undefined && typeof detail !== "string") detail = JSON.stringify(detail);
  throw new ServerError(
    detail || (answer.ok ? "The server's answer can't be read." : `The server answered ${status}.`),
    answer.status,
    wait,
  );
}

const address = (what) => (state.models.length > 1 ? `models/${encodeURIComponent(state.name)}/${what}` : what);

// Say what went wrong, or ask for the token that was missing.
function fail(error, place, retry) {
  if (error.name === "AbortError") return;
  if (error.status !== 401) {
    if (!(error instanceof ServerError)) console.error(error);
    tell(place, error.message);
    return;
  }
  state.retry = retry;
  tell($("token-problem"), state.token === null ? "" : "The server does not take this token.");
  $("token-form").hidden = false;
  $("token").focus();
}

$("token-form").addEventListener("submit", (event) => {
  event.preventDefault();
  const token = $("token").value.trim();
  if (!/^[!-~]+$/.test(token)) {
    tell($("token-problem"), "A token is some letters, digits and signs without spaces.");
    return;
  }
  state.token = token;
  $("token").value = "";
  $("token-form").hidden = true;
  tell($("token-problem"), "");
  if (state.info) showCommand();
  const { retry } = state;
  state.retry = null;
  retry?.();
});

// ---------------------------------------------------------------- Loading

async function load(name) {
  const turn = ++state.loading;
  $("load-problem").hidden = true;
  $("loading").hidden = false;
  try {
    const info = await ask(name === null ? "info" : `models/${encodeURIComponent(name)}/info`);
    if (turn !== state.loading) return;
    state.info = info;
    state.models = list(info.models);
    state.name = name ?? info.name ?? state.models[0] ?? null;
    build();
  } catch (error) {
    if (turn !== state.loading) return;
    state.wanted = name;
    $("model").value = state.name;
    $("load-problem").hidden = error.status === 401;
    fail(error, $("load-problem").firstElementChild, () => load(name));
  } finally {
    if (turn === state.loading) $("loading").hidden = true;
  }
}

$("load-again").addEventListener("click", () => load(state.wanted));
$("model").addEventListener("change", () => load($("model").value));

function build() {
  const { info } = state;
  const name = String(info.name ?? "Model");
  document.title = name;
  $("title").textContent = name;
  $("subtitle").textContent = [info.model, info.data && `trained on ${info.data}`].filter(Boolean).join(", ");
  $("model-choice").hidden = state.models.length < 2;
  $("model").replaceChildren(...state.models.map((model) => make("option", { value: model }, model)));
  $("model").value = state.name;
  tell($("reload-problem"), info.reload_problem && `A newer version can't be used, so this one stays: ${info.reload_problem}`);
  const target = info.target ? `“${info.target}”` : isRegression() ? "number" : "class";
  let needed = info.accepts_missing ? "A field left empty counts as unknown." : "Each field needs a value.";
  if (!info.accepts_missing && features().some(isCategory)) needed = "Each field needs a value, unless it says “missing”.";
  $("try-intro").textContent =
    (isRegression() ? `Describe one case, and the model says how large its ${target} is. ` : `Describe one case, and the model says which ${target} it most likely is. `) + needed;
  buildForm();
  resetAnswer();
  resetTable();
  buildCard();
  $("content").hidden = false;
}

// ---------------------------------------------------------------- The form

const features = () => list(state.info?.features);
const classes = () => list(state.info?.class_names).map(String);
const isRegression = () => state.info?.task === "regression";
const isCategory = (feature) => feature.type === "category";
const isDate = (feature) => feature.type === "date";
const levelsOf = (feature) => list(feature.levels).map(String);
const DAY = 86_400; // seconds

// Seconds since 1970 as a date, with a time where there is one.
function dateText(seconds) {
  const moment = new Date(seconds * 1000);
  if (!isNumber(seconds) || Number.isNaN(moment.getTime())) return "–";
  const text = moment.toISOString();
  return seconds % DAY === 0 ? text.slice(0, 10) : text.replace(/(:00)?\.?0*Z$/, "");
}

const wholeDay = (feature, value) => (isDate(feature) && isNumber(value) ? Math.round(value / DAY) * DAY : value);
const shown = (feature, value, digits) => (isDate(feature) ? dateText(value) : show(value, digits));

// A date as its input has it, in UTC; empty if there is none.
function inputDate(text, hasTime) {
  const seconds = parseDate(text);
  if (seconds === null) return "";
  return new Date(seconds * 1000).toISOString().slice(0, hasTime ? 19 : 10);
}

// Seconds since 1970 of a date in ISO 8601, in UTC where it names no zone; null if it is none.
function parseDate(text) {
  const match = DATE.exec(String(text).trim());
  if (!match) return null;
  const [, date, time = "00:00", second = ":00", zone = "Z"] = match;
  const milliseconds = Date.parse(`${date}T${time}${second.replace(",", ".")}${zone.replace(/^([-+]\d{2})(\d{2})$/, "$1:$2")}`);
  return Number.isNaN(milliseconds) ? null : milliseconds / 1000;
}

function buildForm() {
  state.fields = features().map(makeField);
  $("fields").replaceChildren(...state.fields.map((field) => field.element));
  $("fields").classList.toggle("many", state.fields.length > 2 * MANY_FEATURES);
  $("filter-bar").hidden = state.fields.length <= MANY_FEATURES;
  $("filter").value = "";
  filter();
  const samples = list(state.info.sample);
  $("sample-bar").hidden = samples.length === 0;
  $("sample-previous").hidden = $("sample-next").hidden = samples.length < 2;
  showSample(0);
}

// What a value is typed into; that of a level is its place, for a level may be an empty text.
function makeInput(feature, hasTime) {
  if (feature.type === "bool") {
    return make("select", {}, ...["", "true", "false"].map((value) => make("option", { value }, value || "unknown")));
  }
  if (isCategory(feature)) {
    return make("select", {}, make("option", { value: "" }, "missing"), ...levelsOf(feature).map((level, place) => make("option", { value: place }, brief(level))));
  }
  if (isDate(feature)) return make("input", { type: hasTime ? "datetime-local" : "date", step: hasTime ? "1" : null, max: hasTime ? "9999-12-31T23:59:59" : "9999-12-31", autocomplete: "off" });
  return make("input", { type: "number", step: "any", autocomplete: "off" });
}

function hintOf(feature) {
  const { type, min, max } = feature;
  if (type === "bool") return "true or false";
  if (isCategory(feature)) return count(levelsOf(feature).length, "level");
  const what = type === "int" ? "whole number, " : isDate(feature) ? "date in UTC, " : "";
  return isNumber(min) && isNumber(max) ? `${what}${shown(feature, min)} to ${shown(feature, max)} in training` : "no value in training";
}

function makeField(feature, index) {
  const id = `feature-${index}`;
  const isBool = feature.type === "bool";
  const dates = [feature.min, feature.max, ...list(state.info.sample).map((row) => parseDate(table(row)[feature.name]))];
  const hasTime = isDate(feature) && dates.some((seconds) => isNumber(seconds) && seconds % DAY !== 0);
  const input = makeInput(feature, hasTime);
  fill(input, { id, "aria-describedby": `${id}-hint ${id}-note` }, []);
  const note = make("p", { id: `${id}-note`, class: "note", hidden: true });
  const strip = isBool ? null : makeStrip(feature, true);
  const element = make(
    "div",
    { class: "field" },
    make("label", { for: id }, String(feature.name)),
    input,
    strip,
    make("p", { id: `${id}-hint`, class: "muted" }, hintOf(feature)),
    note,
  );
  const field = { feature, input, note, strip, element, isBool, hasTime };
  input.addEventListener("input", () => {
    check(field);
    changed();
  });
  input.addEventListener("change", () => {
    if (!note.hidden) $("announcer").textContent = `${feature.name}: ${note.textContent}`;
  });
  return field;
}

function setField(field, value) {
  const { feature, input, isBool, hasTime } = field;
  if (value === null || value === undefined) input.value = "";
  else if (isCategory(feature)) {
    const place = levelsOf(feature).indexOf(String(value));
    input.value = place < 0 ? "" : String(place);
  } else if (isDate(feature)) input.value = inputDate(isNumber(value) ? dateText(value) : value, hasTime);
  else if (isBool) input.value = value === true || value === 1 ? "true" : "false";
  else input.value = typeof value === "boolean" ? String(Number(value)) : String(value);
  check(field);
}

function readField(field) {
  const { feature, input, isBool } = field;
  if (input.value === "") return null;
  if (isCategory(feature)) return levelsOf(feature)[Number(input.value)];
  if (isDate(feature)) return input.value;
  return isBool ? input.value === "true" : Number(input.value);
}

// What makes a value unusable; empty if nothing does.
function fault(field) {
  if (field.input.validity.badInput) return isDate(field.feature) ? "This is not a date." : "This is not a number.";
  if (field.input.value === "" && !state.info.accepts_missing && !isCategory(field.feature)) return "A value is needed.";
  return "";
}

// What is unusual about a value; empty if nothing is.
function oddity({ feature, isBool }, given) {
  if (given === null || isBool || isCategory(feature)) return "";
  const { min, max } = feature;
  const value = isDate(feature) ? parseDate(given) : given;
  const [lower, higher] = isDate(feature) ? ["Earlier", "Later"] : ["Lower", "Higher"];
  if (isNumber(min) && value < min) return `⚠ ${lower} than anything in training (${shown(feature, min)}): take the answer with care.`;
  if (isNumber(max) && value > max) return `⚠ ${higher} than anything in training (${shown(feature, max)}): take the answer with care.`;
  if (feature.type === "int" && !Number.isInteger(value)) return "⚠ In training there were whole numbers only.";
  return "";
}

function check(field) {
  const bad = field.input.validity.badInput;
  field.input.removeAttribute("aria-invalid");
  field.note.className = bad ? "problem" : "note";
  if (bad) field.input.setAttribute("aria-invalid", "true");
  tell(field.note, bad ? fault(field) : oddity(field, readField(field)));
  const value = bad ? null : readField(field);
  field.strip?.mark(isDate(field.feature) && value !== null ? parseDate(value) : value);
}

function currentRow() {
  // An own property for each name, also for `__proto__`.
  return Object.fromEntries(state.fields.map((field) => [field.feature.name, readField(field)]));
}

function changed() {
  const odd = state.fields.filter((field) => field.note.className === "note" && !field.note.hidden).length;
  $("notes-status").textContent = odd ? `⚠ ${count(odd, "value")} outside of the training data` : "";
  if (state.answered) {
    $("stale").hidden = false;
    $("bars").classList.add("stale");
  }
  showCommand();
}

function showSample(index) {
  const samples = list(state.info.sample);
  state.sample = samples.length ? (index + samples.length) % samples.length : 0;
  const row = samples[state.sample];
  for (const field of state.fields) {
    const { feature } = field;
    setField(field, row ? (has(row, feature.name) ? row[feature.name] : null) : (list(feature.quantiles)[5] ?? feature.mean));
  }
  $("sample-status").textContent = `Training row ${state.sample + 1} of ${samples.length}`;
  changed();
}

$("sample-previous").addEventListener("click", () => showSample(state.sample - 1));
$("sample-next").addEventListener("click", () => showSample(state.sample + 1));

function filter() {
  const wanted = $("filter").value.trim().toLowerCase();
  let shown = 0;
  for (const field of state.fields) {
    const fits = String(field.feature.name).toLowerCase().includes(wanted);
    field.element.hidden = !fits;
    shown += fits ? 1 : 0;
  }
  $("filter-status").textContent = wanted ? `${shown} of ${count(state.fields.length, "feature")}` : count(state.fields.length, "feature");
}

$("filter").addEventListener("input", filter);

// ---------------------------------------------------------------- One prediction

function resetAnswer() {
  state.asked += 1;
  state.answered = false;
  $("verdict").replaceChildren(make("p", { class: "muted" }, "Nothing predicted yet."));
  tell($("predict-problem"), "");
  $("stale").hidden = true;
  $("bars").replaceChildren();
  $("bars-rest").hidden = true;
}

$("form").addEventListener("submit", (event) => {
  event.preventDefault();
  predict();
});

async function predict() {
  const turn = ++state.asked;
  const wrong = state.fields.filter((field) => fault(field));
  for (const field of wrong) {
    field.input.setAttribute("aria-invalid", "true");
    field.note.className = "problem";
    tell(field.note, fault(field));
  }
  if (wrong.length) {
    $("filter").value = "";
    filter();
    wrong[0].input.focus();
    showProblem(`${wrong[0].feature.name}: ${fault(wrong[0])}`);
    return;
  }
  const button = $("predict");
  button.setAttribute("aria-disabled", "true");
  try {
    const answer = await ask(address("predict"), { features: [currentRow()] });
    if (turn !== state.asked) return;
    const prediction = list(answer.predictions)[0];
    if (isRegression()) showNumber(prediction);
    else showAnswer(String(prediction), table(list(answer.probabilities)[0]));
  } catch (error) {
    if (turn !== state.asked) return;
    if (error.status === 401) fail(error, null, predict);
    else {
      showProblem("");
      fail(error, $("predict-problem"), predict);
    }
  } finally {
    button.removeAttribute("aria-disabled");
  }
}

function showProblem(text) {
  resetAnswer();
  $("verdict").replaceChildren();
  tell($("predict-problem"), text);
}

function beginAnswer() {
  tell($("predict-problem"), "");
  $("stale").hidden = true;
  $("bars").classList.remove("stale");
  state.answered = true;
}

// The number, and where it lies among those of the training.
function showNumber(number) {
  beginAnswer();
  const deciles = list(state.info.target_quantiles);
  const strip = makeStrip({ quantiles: deciles }, true);
  strip?.mark(number);
  let place = "";
  if (strip) {
    place = `${show(deciles[0], 4)} to ${show(deciles[10], 4)} in training, half of the rows below ${show(deciles[5], 4)}.`;
    if (number < deciles[0] || number > deciles[10]) place = `⚠ Outside of the training: ${place}`;
  }
  $("verdict").replaceChildren(...[make("p", { class: "verdict" }, show(number)), strip, make("p", { class: "muted" }, place)].filter(Boolean));
  $("bars").replaceChildren();
  tell($("bars-rest"), "");
}

function showAnswer(label, probabilities) {
  beginAnswer();
  const chances = Object.entries(probabilities)
    .filter(([, chance]) => isNumber(chance))
    .sort(([one, a], [other, b]) => b - a || Number(other === label) - Number(one === label));
  const own = has(probabilities, label) ? probabilities[label] : undefined;
  $("verdict").replaceChildren(
    make("p", { class: "verdict" }, label),
    make("p", { class: "muted" }, isNumber(own) ? `The model gives this ${percent(own)}.${thresholdText()}` : ""),
  );
  $("bars").replaceChildren(
    ...chances.slice(0, SHOWN_CLASSES).map(([name, chance]) => makeBar(name, percent(chance), chance, name === label)),
  );
  const rest = chances.slice(SHOWN_CLASSES);
  const sum = rest.reduce((total, [, chance]) => total + chance, 0);
  tell($("bars-rest"), rest.length ? `${count(rest.length, "further class", "further classes")}, together ${percent(sum)}` : "");
}

function thresholdText() {
  const { threshold } = table(state.info);
  return isNumber(threshold) ? ` “${classes()[1]}” is said from ${percent(threshold)} on.` : "";
}

// A line of text with a bar below it; the text says all that the bar shows.
function makeBar(name, text, share, isFirst) {
  const filled = make("span");
  filled.style.width = `${Math.max(0, Math.min(1, share)) * 100}%`;
  return make(
    "li",
    { class: isFirst ? "bar first" : "bar" },
    make("span", {}, name),
    make("span", { class: "share" }, text),
    make("span", { class: "track", "aria-hidden": "true" }, filled),
  );
}

// ---------------------------------------------------------------- The command

const quoted = (text) => (/^[\w@%+=:,./-]+$/.test(text) ? text : `'${text.replaceAll("'", "'\\''")}'`);

function showCommand() {
  const url = new URL(address("predict"), document.baseURI).href;
  const lines = [`curl ${quoted(url)}`, "-H 'Content-Type: application/json'"];
  if (state.token !== null) lines.push('-H "Authorization: Bearer $TOKEN"');
  lines.push(`-d ${quoted(JSON.stringify({ features: [currentRow()] }))}`);
  $("curl").textContent = lines.join(" \\\n  ");
  $("copy-status").textContent = "";
}

$("copy").addEventListener("click", async () => {
  try {
    await navigator.clipboard.writeText($("curl").textContent);
    $("copy-status").textContent = "Copied.";
  } catch {
    // Browsers give the clipboard to safe origins only.
    getSelection().selectAllChildren($("curl"));
    $("copy-status").textContent = document.execCommand("copy") ? "Copied." : "Selected: copy it with Ctrl+C.";
  }
});

// ---------------------------------------------------------------- Reading a CSV

const NUMBER = /^[-+]?(\d+\.?\d*|\.\d+)(e[-+]?\d+)?$/i;
const COMMA_NUMBER = /^[-+]?(\d+,\d*|,\d+)(e[-+]?\d+)?$/i;
const DATE = /^(\d{4}-\d{2}-\d{2})(?:[T ](\d{2}:\d{2})(:\d{2}(?:[.,]\d+)?)?)?\s*(Z|[-+]\d{2}:?\d{2})?$/;
const MISSING = new Set(["", "na", "n/a", "nan", "null", "none"]);
const TRUTH = { true: true, false: false, 1: true, 0: false };

class TableError extends Error {}

// Split a text into records of cells; stops after `limit` records.
function parseCsv(text, delimiter, limit = Infinity) {
  const records = [];
  let cells = [];
  let at = 0;
  let line = 1;
  const end = text.length;
  while (at <= end && records.length < limit) {
    let cell;
    let wasQuoted = false;
    if (text[at] === '"') {
      wasQuoted = true;
      const opened = line;
      const parts = [];
      let from = at + 1;
      for (;;) {
        const close = text.indexOf('"', from);
        if (close < 0) throw new TableError(`Line ${opened}: a quotation mark is not closed.`);
        parts.push(text.slice(from, close));
        if (text[close + 1] !== '"') {
          at = close + 1;
          break;
        }
        parts.push('"');
        from = close + 2;
      }
      cell = parts.join("");
      for (const sign of cell) if (sign === "\n") line += 1;
    } else cell = "";
    let stop = at;
    while (stop < end && text[stop] !== delimiter && text[stop] !== "\n" && text[stop] !== "\r") stop += 1;
    cell += text.slice(at, stop);
    cells.push(cell);
    at = stop;
    if (text[at] === delimiter && at < end) {
      at += 1;
      continue;
    }
    // An empty line is no record.
    if (cells.length > 1 || wasQuoted || cells[0].trim() !== "") records.push(cells);
    cells = [];
    line += 1;
    at += text[at] === "\r" && text[at + 1] === "\n" ? 2 : 1;
  }
  return records;
}

// The delimiter with which the first line names the most features, or else has the most cells.
function findDelimiter(text, names) {
  let best = { delimiter: ",", known: -1, cells: 0 };
  for (const delimiter of [",", ";", "\t"]) {
    let header;
    try {
      header = parseCsv(text, delimiter, 1)[0] ?? [];
    } catch {
      continue;
    }
    const known = header.filter((cell) => names.has(cell) || names.has(cell.trim())).length;
    if (known > best.known || (known === best.known && header.length > best.cells)) {
      best = { delimiter, known, cells: header.length };
    }
  }
  return best.delimiter;
}

// Turn a text into rows of values in the order of the features.
function readTable(text) {
  const names = new Map(features().map((feature, index) => [String(feature.name), index]));
  text = text.replace(/^\uFEFF/, "");
  const delimiter = findDelimiter(text, names);
  const [header, ...rows] = parseCsv(text, delimiter);
  if (!header) throw new TableError("There are no rows: the first line has to name the columns.");
  const columns = new Map();
  header.forEach((cell, column) => {
    const name = names.has(cell) ? cell : cell.trim();
    if (!names.has(name)) return;
    if (columns.has(name)) throw new TableError(`Column ${column + 1}: “${brief(name)}” is there twice.`);
    columns.set(name, column);
  });
  const absent = [...names.keys()].filter((name) => !columns.has(name));
  if (absent.length) {
    const shown = absent.slice(0, 5).map((name) => `“${brief(name)}”`).join(", ");
    const more = absent.length > 5 ? ` and ${absent.length - 5} more` : "";
    const hint = columns.size ? "" : " The first line has to name the columns.";
    throw new TableError(`The header lacks ${shown}${more}.${hint}`);
  }
  if (!rows.length) throw new TableError("There are no rows below the header.");
  let problem = null;
  let problems = 0;
  let hasCommas = false;
  const note = (message) => {
    problem ??= message;
    problems += 1;
  };
  const order = features().map((feature) => ({ feature, column: columns.get(String(feature.name)) }));
  const values = rows.map((cells, index) => {
    if (cells.length !== header.length) {
      note(`Row ${index + 1} has ${count(cells.length, "cell")}, the header ${header.length}.`);
      return [];
    }
    return order.map(({ feature, column }) => {
      const cell = cells[column].trim();
      const wrong = (what) => note(`Row ${index + 1}, column “${brief(feature.name)}”: ${what}.`);
      if (isCategory(feature)) {
        const isLevel = levelsOf(feature).includes(cells[column]);
        return MISSING.has(cell.toLowerCase()) && !isLevel ? null : cells[column];
      }
      if (isDate(feature) && !MISSING.has(cell.toLowerCase())) {
        if (parseDate(cell) === null) wrong(`“${brief(cell)}” is not a date such as 2024-01-31`);
        return cell;
      }
      if (NUMBER.test(cell)) {
        const value = Number(cell);
        if (!Number.isFinite(value)) wrong(`${brief(cell)} is too large`);
        return value;
      }
      if (MISSING.has(cell.toLowerCase())) {
        if (!state.info.accepts_missing) wrong("a value is needed");
        return null;
      }
      if (feature.type === "bool" && has(TRUTH, cell.toLowerCase())) return TRUTH[cell.toLowerCase()];
      if (delimiter !== "," && COMMA_NUMBER.test(cell)) {
        hasCommas = true;
        return Number(cell.replace(",", "."));
      }
      wrong(`“${brief(cell)}” is not a number`);
      return null;
    });
  });
  if (problem !== null) {
    throw new TableError(problems > 1 ? `${problem} There ${problems === 2 ? "is 1 more" : `are ${problems - 1} more`}.` : problem);
  }
  return { header, rows, values, delimiter, hasCommas };
}

async function readFile(file) {
  if (file.size > LARGEST_FILE) {
    throw new TableError(`The file is larger than ${LARGEST_FILE / 2 ** 20} MB: too much for a page; use entrypoints.predict.`);
  }
  const bytes = new Uint8Array(await file.arrayBuffer());
  if (bytes[0] === 0xff && bytes[1] === 0xfe) return new TextDecoder("utf-16le").decode(bytes);
  try {
    return new TextDecoder("utf-8", { fatal: true }).decode(bytes);
  } catch {
    return new TextDecoder("windows-1252").decode(bytes);
  }
}

// ---------------------------------------------------------------- Scoring a table

function resetTable() {
  state.scoring?.abort();
  state.scored = null;
  $("scored").hidden = true;
  $("table-status").textContent = "";
  tell($("table-problem"), "");
}

$("table-form").addEventListener("submit", (event) => {
  event.preventDefault();
  scoreTable(async () => $("csv").value, null);
});

// A browser takes seconds to paste a long text, so that "undo" can take it back.
$("csv").addEventListener("paste", (event) => {
  const text = event.clipboardData?.getData("text/plain") ?? "";
  if (text.length < LONG_PASTE) return;
  event.preventDefault();
  $("csv").setRangeText(text, $("csv").selectionStart, $("csv").selectionEnd, "end");
});

$("file").addEventListener("click", () => {
  $("file").value = ""; // so that the same file can be chosen again, with other content
});
$("file").addEventListener("change", () => {
  const [file] = $("file").files;
  if (file) scoreTable(() => readFile(file), file.name);
});

// A file that misses the zone by a little shall not replace the page.
for (const kind of ["dragenter", "dragover", "dragleave", "drop"]) {
  window.addEventListener(kind, (event) => {
    if (![...(event.dataTransfer?.types ?? [])].includes("Files")) return;
    event.preventDefault();
    const isOver = event.target instanceof Node && $("drop").contains(event.target);
    $("drop").classList.toggle("over", isOver && kind !== "drop" && kind !== "dragleave");
    const [file] = event.dataTransfer.files;
    if (kind === "drop" && file && state.info) scoreTable(() => readFile(file), file.name);
  });
}

async function scoreTable(read, fileName) {
  resetTable();
  const scoring = (state.scoring = new AbortController());
  const isCurrent = () => state.scoring === scoring && !scoring.signal.aborted;
  const path = address("predict");
  try {
    const text = await read();
    if (!isCurrent()) return;
    const found = readTable(text);
    const total = found.values.length;
    const size = Math.max(1, Math.min(ROWS_PER_REQUEST, state.info?.max_rows ?? ROWS_PER_REQUEST, Math.floor(VALUES_PER_REQUEST / Math.max(1, features().length))));
    const predictions = [];
    const probabilities = [];
    for (let start = 0; start < total; start += size) {
      if (total > size) $("table-status").textContent = `Scoring ${count(total, "row")}: ${percent(start / total)}`;
      const answer = await askPatiently(path, found.values.slice(start, start + size), start, scoring.signal);
      if (!isCurrent()) return;
      for (const prediction of answer.predictions) predictions.push(isRegression() ? prediction : String(prediction));
      for (const row of list(answer.probabilities)) probabilities.push(row);
    }
    state.scored = { ...found, fileName, predictions, probabilities };
    showTable();
  } catch (error) {
    if (!isCurrent()) return;
    $("table-status").textContent = "";
    if (error instanceof TableError) tell($("table-problem"), error.message);
    else fail(error, $("table-problem"), () => scoreTable(read, fileName));
  }
}

// Ask for the rows from `start` on, and again if the server is busy.
async function askPatiently(path, rows, start, signal) {
  for (let attempt = 1; ; attempt += 1) {
    try {
      return await ask(path, { features: rows }, signal);
    } catch (error) {
      if (error.status === 429 && attempt < 5) {
        await new Promise((resolve) => setTimeout(resolve, Math.min(error.wait ?? 1, 10) * 1000));
        continue;
      }
      // The server counts from the first row of the request.
      error.message = error.message.replace(/^Row (\d+)/, (_, row) => `Row ${Number(row) + start}`);
      throw error;
    }
  }
}

const chanceOf = (row, label) => (has(row, label) ? row[label] : undefined);

function showTable() {
  const { header, rows, predictions, probabilities } = state.scored;
  if (isRegression()) {
    showNumbers();
    showRows(["Prediction"], (index) => [make("td", { class: "predicted number" }, show(predictions[index]))]);
    return;
  }
  const target = header.findIndex((cell) => cell.trim() === state.info.target);
  let status = `${count(rows.length, "row")} scored.`;
  if (target >= 0 && rows.some((cells) => classes().includes(cells[target].trim()))) {
    const right = rows.filter((cells, index) => cells[target].trim() === predictions[index]).length;
    status += ` The prediction is the same as column “${brief(header[target])}” in ${right.toLocaleString("en")} (${percent(right / rows.length)}).`;
  }
  $("table-status").textContent = status;

  const counts = new Map();
  for (const label of predictions) counts.set(label, (counts.get(label) ?? 0) + 1);
  const sorted = [...counts].sort(([, a], [, b]) => b - a);
  const further = sorted.length - SHOWN_CLASSES;
  $("counts").replaceChildren();
  fill($("counts"), {}, [
    make("h3", {}, "Rows by class"),
    make(
      "ul",
      { class: "bars" },
      ...sorted
        .slice(0, SHOWN_CLASSES)
        .map(([label, number]) =>
          makeBar(label, `${count(number, "row")}, ${percent(number / rows.length)}`, number / rows.length, false),
        ),
    ),
    further > 0 ? make("p", { class: "muted small" }, `and ${count(further, "further class", "further classes")}`) : null,
  ]);

  showRows(["Prediction", "Probability"], (index) => [
    make("td", { class: "predicted" }, predictions[index]),
    make("td", { class: "number" }, percent(chanceOf(probabilities[index], predictions[index]))),
  ]);
}

// What the numbers of all rows are like, and how far they are from a target that came with them.
function showNumbers() {
  const { header, rows, predictions, hasCommas } = state.scored;
  const target = header.findIndex((cell) => cell.trim() === state.info.target);
  let status = `${count(rows.length, "row")} scored.`;
  const misses = rows.flatMap((cells, index) => {
    const cell = target < 0 ? "" : cells[target].trim();
    const known = Number(hasCommas ? cell.replace(",", ".") : cell);
    return cell === "" || !Number.isFinite(known) ? [] : [Math.abs(known - predictions[index])];
  });
  if (misses.length) {
    const mean = misses.reduce((sum, miss) => sum + miss, 0) / misses.length;
    status += ` The prediction is ${show(mean, 4)} away from column “${brief(header[target])}” on average.`;
  }
  $("table-status").textContent = status;
  const sorted = [...predictions].sort((a, b) => a - b);
  const facts = [
    ["Lowest", sorted[0]],
    ["Median", sorted[Math.floor((sorted.length - 1) / 2)]],
    ["Highest", sorted.at(-1)],
  ];
  $("counts").replaceChildren(
    make("h3", {}, "Predicted numbers"),
    make("dl", { class: "facts" }, ...facts.map(([name, value]) => make("div", {}, make("dt", {}, name), make("dd", {}, show(value))))),
  );
}

// Show the first rows with what `cellsOf` makes of the position of each, below `titles`.
function showRows(titles, cellsOf) {
  const { header, rows } = state.scored;
  const columns = header.slice(0, SHOWN_COLUMNS);
  const isNumeric = (name) => name === "Probability" || (name === "Prediction" && isRegression());
  const heads = [
    make("th", { scope: "col" }, "Row"),
    ...titles.map((name) => make("th", { scope: "col", class: isNumeric(name) ? "number" : null }, name)),
    ...columns.map((name) => make("th", { scope: "col" }, name)),
  ];
  const shownRows = rows
    .slice(0, SHOWN_ROWS)
    .map((cells, index) =>
      make("tr", {}, make("th", { scope: "row" }, String(index + 1)), ...cellsOf(index), ...columns.map((_, column) => make("td", {}, cells[column]))),
    );
  $("rows").replaceChildren(make("table", {}, make("thead", {}, make("tr", {}, ...heads)), make("tbody", {}, ...shownRows)));
  const left = [];
  if (rows.length > SHOWN_ROWS) left.push(`the first ${SHOWN_ROWS} of ${count(rows.length, "row")}`);
  if (header.length > SHOWN_COLUMNS) left.push(`the first ${SHOWN_COLUMNS} of ${count(header.length, "column")}`);
  tell($("rows-status"), left.length ? `Shown: ${left.join(", ")}. The download holds all.` : "");
  $("scored").hidden = false;
}

// A spreadsheet takes a text that begins like this for a formula and runs it.
const isFormula = (cell) => /^[=+\-@\t\r]/.test(cell) && !NUMBER.test(cell) && !COMMA_NUMBER.test(cell);

function scoredCsv() {
  const { header, rows, predictions, probabilities, delimiter, hasCommas } = state.scored;
  const cell = (value) => {
    const text = isFormula(value) ? `'${value}` : value;
    return /["\r\n,;\t]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
  };
  const number = (value) => {
    if (!isNumber(value)) return "";
    return hasCommas ? String(value).replace(".", ",") : String(value);
  };
  const taken = new Set(header);
  const unique = (name) => {
    let free = name;
    for (let copy = 2; taken.has(free); copy += 1) free = `${name}_${copy}`;
    taken.add(free);
    return free;
  };
  const names = classes();
  const lines = [[...header, unique("prediction"), ...names.map((name) => unique(`probability_${name}`))]];
  rows.forEach((cells, index) => {
    const prediction = isRegression() ? number(predictions[index]) : predictions[index];
    lines.push([...cells, prediction, ...names.map((name) => number(chanceOf(probabilities[index], name)))]);
  });
  return lines.map((line) => `${line.map(cell).join(delimiter)}\r\n`).join("");
}

$("download").addEventListener("click", () => {
  const url = URL.createObjectURL(new Blob([scoredCsv()], { type: "text/csv;charset=utf-8" }));
  const base = (state.scored.fileName ?? "rows").replace(/\.[^.]*$/, "");
  const link = make("a", { href: url, download: `${base}_scored.csv` });
  document.body.append(link);
  link.click();
  link.remove();
  setTimeout(() => URL.revokeObjectURL(url), 60_000);
});

// ---------------------------------------------------------------- The card

function buildCard() {
  const { info } = state;
  const created = new Date(info.created_at ?? NaN);
  const isDate = !Number.isNaN(created.getTime());
  const moment = isDate ? `${created.toISOString().slice(0, 16).replace("T", " ")} UTC` : info.created_at;
  const facts = [
    ["Name", info.name],
    ["Kind of model", info.model],
    ["Version", info.version, "code"],
    ["Created", moment, isDate ? "time" : null],
    ["Data", info.data],
    ["Predicts", info.target],
    ["Classes", classes().length ? brief(classes().join(", "), 200) : null],
    ["Threshold", isNumber(info.threshold) ? `“${classes()[1]}” from ${percent(info.threshold)} on` : null],
    ["Run", info.run_id, "code"],
    ["Git commit", info.git_commit, "code"],
    ["Computed by", info.backend],
  ].filter(([, value]) => value !== null && value !== undefined && value !== "");
  $("facts").replaceChildren(
    ...facts.map(([name, value, tag]) => {
      const attributes = tag === "time" ? { datetime: info.created_at } : {};
      const shown = tag ? make(tag, attributes, String(value)) : String(value);
      return make("div", {}, make("dt", {}, name), make("dd", {}, shown));
    }),
  );
  $("card").replaceChildren(...[makeMetrics(), makeMatrices(), makeCurve(), makeFeatures()].flat());
}

function splitOf(name) {
  const split = SPLITS.find((prefix) => name.startsWith(`${prefix}_`));
  return split ? [split, name.slice(split.length + 1)] : ["", name];
}

function makeMetrics() {
  const metrics = new Map();
  const found = new Set();
  for (const [key, value] of Object.entries(table(state.info.metrics))) {
    const [split, name] = splitOf(key);
    found.add(split);
    if (!metrics.has(name)) metrics.set(name, {});
    metrics.get(name)[split] = value;
  }
  if (!metrics.size) return [];
  const splits = [...SPLITS, ""].filter((split) => found.has(split));
  const head = splits.map((split) => make("th", { scope: "col", class: "number" }, SPLIT_NAMES[split] ?? "Value"));
  const body = [...metrics].map(([name, values]) => {
    const meaning = has(METRICS, name) ? make("small", {}, METRICS[name]) : null;
    const cells = splits.map((split) => make("td", { class: "number" }, show(values[split], 4)));
    return make("tr", {}, make("th", { scope: "row" }, name, meaning), ...cells);
  });
  return [
    make("h3", {}, "How good it is"),
    scroll("Metrics", make("table", {}, make("thead", {}, make("tr", {}, make("th", { scope: "col" }, "Metric"), ...head)), make("tbody", {}, ...body))),
  ];
}

function scroll(label, content) {
  return make("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": label }, content);
}

function makeMatrices() {
  const matrices = table(state.info.confusion_matrices);
  const splits = [...new Set([...SPLITS, ...Object.keys(matrices)])].filter((split) => list(matrices[split]).length);
  if (!splits.length) return [];
  const figures = splits.map((split) => {
    const matrix = list(matrices[split]).map(list);
    const name = SPLIT_NAMES[split] ?? split;
    return scroll(`${name}: right and wrong`, matrix.length > SHOWN_MATRIX ? makeMistakes(name, matrix) : makeMatrix(name, matrix));
  });
  return [
    make("h3", {}, "Right and wrong"),
    make("p", { class: "muted" }, "Each line is a true class, each column what the model said: what is right stands on the diagonal, in bold."),
    make("div", { class: "figures" }, ...figures),
  ];
}

const className = (index) => classes()[index] ?? String(index);

function makeMatrix(name, matrix) {
  const head = matrix.map((_, index) => make("th", { scope: "col", title: className(index) }, className(index)));
  const body = matrix.map((row, index) => {
    const total = row.reduce((sum, value) => sum + (isNumber(value) ? value : 0), 0);
    const cells = row.map((value, column) => {
      const cell = make("td", { class: column === index ? "right" : null }, show(value));
      cell.style.setProperty("--share", total && isNumber(value) ? value / total : 0);
      return cell;
    });
    return make("tr", {}, make("th", { scope: "row", title: className(index) }, className(index)), ...cells);
  });
  return make(
    "table",
    { class: "matrix" },
    make("caption", {}, name),
    make("thead", {}, make("tr", {}, make("th", { scope: "col", class: "corner" }, "true \\ said"), ...head)),
    make("tbody", {}, ...body),
  );
}

function makeMistakes(name, matrix) {
  const mistakes = matrix
    .flatMap((row, index) => row.map((value, column) => ({ index, column, value })))
    .filter(({ index, column, value }) => index !== column && value > 0)
    .sort((a, b) => b.value - a.value);
  const body = mistakes
    .slice(0, SHOWN_CLASSES)
    .map(({ index, column, value }) =>
      make("tr", {}, make("td", {}, className(index)), make("td", {}, className(column)), make("td", { class: "number" }, show(value))),
    );
  const heads = ["True class", "The model said", "Rows"].map((text, index) => make("th", { scope: "col", class: index === 2 ? "number" : null }, text));
  const right = matrix.reduce((sum, row, index) => sum + (isNumber(row[index]) ? row[index] : 0), 0);
  return make(
    "table",
    {},
    make("caption", {}, `${name}: ${count(right, "row")} right; the commonest mistakes`),
    make("thead", {}, make("tr", {}, ...heads)),
    make("tbody", {}, ...body),
  );
}

function makeCurve() {
  const history = list(state.info.history).filter((entry) => isNumber(entry?.step));
  const names = [...new Set(history.flatMap((entry) => Object.keys(entry)))]
    .filter((name) => name.endsWith("loss") && history.some((entry) => isNumber(entry[name])))
    .sort();
  if (!names.length) return [];
  const losses = names.flatMap((name) => history.map((entry) => entry[name]).filter(isNumber));
  const [low, high] = [losses.reduce((a, b) => Math.min(a, b)), losses.reduce((a, b) => Math.max(a, b))];
  const steps = history.map((entry) => entry.step);
  const [first, last] = [steps.reduce((a, b) => Math.min(a, b)), steps.reduce((a, b) => Math.max(a, b))];
  const [left, right, top, bottom] = [52, 410, 12, 180];
  const x = (step) => left + ((step - first) / (last - first || 1)) * (right - left);
  const y = (loss) => bottom - ((loss - low) / (high - low || 1)) * (bottom - top);
  const nameOf = (name) => SPLIT_NAMES[splitOf(name)[0]] ?? name;
  const isDashed = (name) => (name.startsWith("train_") || names.length === 1 ? "" : " dashed");
  const lines = names.flatMap((name) => {
    // A step without a value is a gap.
    const pieces = [[]];
    for (const entry of history) {
      if (isNumber(entry[name])) pieces.at(-1).push(`${x(entry.step).toFixed(2)},${y(entry[name]).toFixed(2)}`);
      else if (pieces.at(-1).length) pieces.push([]);
    }
    return pieces
      .filter((piece) => piece.length)
      .map((piece) => {
        if (piece.length > 1) return draw("polyline", { class: `line${isDashed(name)}`, points: piece.join(" ") });
        const [cx, cy] = piece[0].split(",");
        return draw("circle", { class: `dot${isDashed(name)}`, cx, cy, r: 3 });
      });
  });
  const ends = names.map((name) => {
    const values = history.map((entry) => entry[name]).filter(isNumber);
    return `${nameOf(name)}: from ${show(values[0], 3)} to ${show(values.at(-1), 3)}`;
  });
  const label = (text, attributes) => draw("text", attributes, text);
  const curve = draw(
    "svg",
    { class: "curve", viewBox: "0 0 420 215", role: "img", "aria-labelledby": "curve-title", "aria-describedby": "curve-desc" },
    draw("title", { id: "curve-title" }, "Loss by step of training"),
    draw("desc", { id: "curve-desc" }, `${count(history.length, "step")}. ${ends.join("; ")}.`),
    ...[top, (top + bottom) / 2, bottom].map((at) => draw("line", { class: "axis", x1: left, x2: right, y1: at, y2: at })),
    ...(high > low ? [[top, high], [(top + bottom) / 2, (low + high) / 2], [bottom, low]] : [[bottom, low]]).map(([at, loss]) =>
      label(show(loss, 3), { x: left - 8, y: at + 4, "text-anchor": "end" }),
    ),
    label(show(first), { x: left, y: bottom + 18, "text-anchor": "start" }),
    last > first ? label(show(last), { x: right, y: bottom + 18, "text-anchor": "end" }) : null,
    label("step", { x: (left + right) / 2, y: bottom + 18, "text-anchor": "middle" }),
    ...lines,
  );
  const hasValidation = names.some((name) => name.startsWith("val_"));
  const legend = names.map((name) =>
    make(
      "li",
      {},
      draw("svg", { class: "curve", viewBox: "0 0 28 8", "aria-hidden": "true" }, draw("line", { class: `line${isDashed(name)}`, x1: 0, x2: 28, y1: 4, y2: 4 })),
      nameOf(name),
    ),
  );
  return [
    make("h3", {}, "How it learned"),
    make("p", { class: "muted" }, `The loss, which training makes small.${hasValidation ? VALIDATION : ""}`),
    curve,
    make("ul", { class: "legend small" }, ...legend),
  ];
}

function makeFeatures() {
  if (!features().length) return [];
  const heads = ["Feature", "Lowest", "Mean", "Highest", "Missing", "Distribution"];
  const body = features().map((feature) =>
    make(
      "tr",
      {},
      make("th", { scope: "row" }, String(feature.name), make("small", {}, feature.type ?? "")),
      ...[feature.min, feature.mean, feature.max].map((value) => make("td", { class: "number" }, shown(feature, wholeDay(feature, value), 5))),
      make("td", { class: "number" }, percent(feature.missing)),
      make("td", {}, isCategory(feature) ? levelsText(feature) : (makeStrip(feature, false) ?? "–")),
    ),
  );
  return [
    make("h3", {}, "What it was trained on"),
    make(
      "details",
      { open: features().length <= MANY_FEATURES },
      make("summary", {}, count(features().length, "feature")),
      scroll(
        "Features",
        make(
          "table",
          {},
          make("thead", {}, make("tr", {}, ...heads.map((text, index) => make("th", { scope: "col", class: index > 0 && index < 5 ? "number" : null }, text)))),
          make("tbody", {}, ...body),
        ),
      ),
    ),
  ];
}

// The commonest levels of a category, with the part of the rows that each has.
function levelsText(feature) {
  const shares = list(feature.shares);
  const levels = levelsOf(feature).map((level, place) => ({ level, share: shares[place] }));
  if (shares.length) levels.sort((a, b) => b.share - a.share);
  const named = levels.slice(0, SHOWN_LEVELS).map(({ level, share }) => brief(level, 30) + (isNumber(share) ? ` (${percent(share)})` : ""));
  if (levels.length > SHOWN_LEVELS) named.push(`and ${levels.length - SHOWN_LEVELS} more`);
  return named.join(", ") || "–";
}

// How the values of a feature were spread: ten parts with as many rows each, the narrower the
// higher, and the median as a line. In the form a second line shows the present value.
function makeStrip(feature, isForm) {
  const deciles = list(feature.quantiles);
  if (deciles.length !== 11 || !deciles.every(isNumber)) return null;
  const [low, high] = [deciles[0], deciles[10]];
  const [width, height] = [200, 24];
  const place = (value) => (high > low ? ((value - low) / (high - low)) * (width - 4) + 2 : width / 2);
  const least = 3; // of a part where all rows have one value
  const parts = deciles.slice(1).map((end, index) => {
    const from = place(deciles[index]);
    return { from, size: Math.max(place(end) - from, least) };
  });
  const highest = Math.min(...parts.map((part) => part.size));
  const svg = draw(
    "svg",
    { class: "strip", viewBox: `0 0 ${width} ${height}`, preserveAspectRatio: "none", ...(isForm ? { "aria-hidden": "true" } : { role: "img" }) },
    isForm ? null : draw("title", {}, `A tenth of the rows each lies between ${deciles.map((value) => shown(feature, wholeDay(feature, value), 4)).join(", ")}`),
    draw("line", { class: "base", x1: 0, x2: width, y1: height - 0.5, y2: height - 0.5 }),
    ...parts.map(({ from, size }) => {
      const tall = Math.max(2, Math.sqrt(highest / size) * height);
      return draw("rect", { x: from.toFixed(2), y: (height - tall).toFixed(2), width: size.toFixed(2), height: tall.toFixed(2) });
    }),
  );
  const line = (name, value) => draw("line", { class: name, x1: place(value), x2: place(value), y1: 0, y2: height });
  if (!isForm) svg.append(line("median", deciles[5]));
  svg.mark = (value) => {
    svg.querySelector(".marker")?.remove();
    if (isNumber(value) && value >= low && value <= high) svg.append(line("marker", value));
  };
  return svg;
}

load(null);
