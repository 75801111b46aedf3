"use strict";
// The page is whole without this: only the sorting of the table, and the list of utterances, are made here.
const data = JSON.parse(document.getElementById("data").textContent);
const heard = new Map(data.media.map((row, rank) => [row, rank]));
const PAGE = 25;

// An element: make("td", {class: "S"}, "text", child, ...). Text is never read as HTML.
function make(tag, attributes = {}, ...children) {
  const svg = ["svg", "polyline", "path"].includes(tag);
  const element = svg ? document.createElementNS("http://www.w3.org/2000/svg", tag) : document.createElement(tag);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  element.append(...children.filter((child) => child !== null));
  return element;
}

// The table ---------------------------------------------------------------------------------------------------------

for (const table of document.querySelectorAll("table.sortable")) {
  const headings = [...table.tHead.rows[0].cells];
  headings.forEach((heading, column) => heading.firstElementChild.addEventListener("click", () => {
    const direction = heading.getAttribute("aria-sort") === "ascending" ? "descending" : "ascending";
    headings.forEach((other) => other.setAttribute("aria-sort", other === heading ? direction : "none"));
    const sign = direction === "ascending" ? 1 : -1;
    const value = (row) => row.cells[column].dataset.value;
    const rows = [...table.tBodies[0].rows].sort((x, y) => {
      if (value(x) === undefined || value(y) === undefined) return (value(x) === undefined) - (value(y) === undefined);
      return sign * (value(x) - value(y));  // what is missing stays below
    });
    table.tBodies[0].append(...rows);
  }));
}

// Choosing and ordering utterances ----------------------------------------------------------------------------------

const form = document.getElementById("filter");
const list = document.getElementById("list");
const more = document.getElementById("more");
const first = (row, system) => data.rows[row].errors[system][0];
// What is asked of a row again and again, as it is sorted: once, when the page opens.
const facts = data.rows.map((row, number) => {
  const errors = row.errors.map(([of_first]) => of_first);
  const most = Math.max(...errors), known = row.sure.filter((value) => value !== null);
  return {
    most, total: errors.reduce((sum, one) => sum + one, 0),
    interest: heard.has(number) ? 1e6 - heard.get(number) : most - Math.min(...errors),
    unsure: known.length ? known.reduce((sum, value) => sum + 1 - value, 0) / known.length : -1,
    differ: new Set(row.said.map((said) => (said ? said[0] : row.ref))).size > 1,
    text: [row.id, row.ref, ...row.said.map((said) => (said ? said[0] : ""))].join("\n").toLowerCase(),
  };
});
const by = (key) => (x, y) => facts[y][key] - facts[x][key];
const ORDERS = {
  interest: (x, y) => by("interest")(x, y) || by("total")(x, y) || by("unsure")(x, y),
  given: (x, y) => x - y,
  errors: by("total"),
  longest: (x, y) => data.rows[y].seconds - data.rows[x].seconds || data.rows[y].ref.length - data.rows[x].ref.length,
  unsure: by("unsure"),
};
let chosen = [], shown = 0;

function choose() {
  const asked = Object.fromEntries(new FormData(form));
  for (const label of form.querySelectorAll(".pair")) label.hidden = asked.show !== "pair";
  const text = asked.text.trim().toLowerCase();
  const SHOWN = {
    all: () => true,
    errors: (row) => facts[row].most > 0,
    differ: (row) => facts[row].differ,
    pair: (row) => first(row, asked.a) === 0 && first(row, asked.b) > 0,
    heard: (row) => heard.has(row),
  };
  chosen = [...data.rows.keys()].filter((row) =>
    SHOWN[asked.show](row) && (!asked.speaker || data.rows[row].speaker === asked.speaker)
    && (!text || facts[row].text.includes(text)));
  chosen.sort(ORDERS[asked.order]);
  list.replaceChildren();
  shown = 0;
  show();
}

function show() {
  const next = chosen.slice(shown, shown + PAGE).map(card);
  list.append(...next);
  shown += next.length;
  more.hidden = shown >= chosen.length;
  const of = `${chosen.length} of ${data.rows.length} utterances`;
  document.getElementById("count").textContent = shown < chosen.length ? `${of}, the first ${shown} below` : of;
  return next[0];
}

let typing;
form.addEventListener("input", (event) => {
  clearTimeout(typing);
  if (event.target.name === "text") typing = setTimeout(choose, 120);  // the next letter may be on its way
  else choose();
});
form.addEventListener("submit", (event) => event.preventDefault());
more.addEventListener("click", () => {
  const next = show();
  next.tabIndex = -1;
  next.focus({preventScroll: true});  // a keyboard goes on where the new ones begin
});

// One utterance: who said what ---------------------------------------------------------------------------------------

function card(number) {
  const row = data.rows[number];
  const about = [row.speaker && `speaker ${row.speaker}`, row.seconds && `${row.seconds.toFixed(1)} s`];
  const title = make("h3", {}, row.id, " ", make("small", {}, about.filter(Boolean).join(", ")));
  const article = make("article", {"data-id": row.id}, title, gloss(row));
  if (heard.has(number)) {
    const details = make("details", {class: "look"}, make("summary", {}, "Listen and look"));
    details.addEventListener("toggle", () => details.children.length > 1 || look(details, number));
    article.append(details);
  } else if (heard.size) {
    article.append(make("span", {class: "muted"}, "Words only: not among those with sound."));
  }
  return article;
}

const EDITS = {S: "substituted", D: "deleted", I: "inserted"};
const longest = Math.max(9, ...data.names.map((name) => name.length));
const seeds = Math.max(...data.seeds.map((of) => of.length));
// Pixels for a name and its errors, of each seed as well; on a phone it is broken.
const label = () => Math.min(40 + 7 * Math.min(16, longest) + (seeds > 1 ? 14 * seeds + 10 : 0), 0.42 * list.clientWidth);
list.style.setProperty("--names", `${0.43 * Math.min(22, longest) + 0.6}rem`);

// Columns under the reference's words; as many lines of them as the width asks for.
function gloss(row) {
  const columns = aligned(row);
  const room = list.clientWidth - 32 - label();
  const lines = [[]];
  let used = 0;
  for (const column of columns) {
    const width = 14 + Math.max(...column.map(([edit, word]) => 8.5 * word.length + (edit in EDITS ? 24 : 0)));
    if (used + width > room && used) { lines.push([]); used = 0; }
    used += width;
    lines.at(-1).push(column);
  }
  return make("div", {class: "gloss", style: `--label:${label()}px`}, ...lines.map((line) => make("table", {}, make("tbody", {},
    ...["reference", ...data.names].map((name, which) => make("tr", {},
      make("th", {scope: "row"}, name, " ", which ? make("b", {}, counts(row, which - 1)) : ""),
      ...line.map((column) => cell(...column[which]))))))));
}

function counts(row, system) {
  const errors = row.errors[system];
  return Math.max(...errors) === 0 ? "\u2713" : errors.length > 1 ? `${errors[0]} (${errors.join(" ")})` : `${errors[0]}`;
}

function cell(edit, word) {
  if (edit in EDITS) return make("td", {}, make("span", {class: edit, title: EDITS[edit]}, make("b", {}, edit), ` ${word}`));
  return make("td", {class: edit}, word);
}

// [[edit, word] of the reference, of each system]: a column for each word of the reference and for what was inserted.
function aligned(row) {
  const ref = row.ref ? row.ref.split(" ") : [];
  const between = [];  // of each system: what it inserted before each word of the reference
  const at = [];  // of each system: what it made of each word
  for (const said of row.said) {
    const hyp = said && said[0] ? said[0].split(" ") : [];
    const before = Array.from({length: ref.length + 1}, () => []), made = [];
    if (!said) made.push(...ref.map((word) => ["C", word]));
    let h = 0;
    for (const edit of said ? said[1] : "") {
      if (edit === "I") before[made.length].push(["I", hyp[h++]]);
      else made.push(edit === "D" ? ["D", "\u2014"] : [edit, hyp[h++]]);
    }
    between.push(before);
    at.push(made);
  }
  const columns = [];
  for (let r = 0; r <= ref.length; r++) {
    for (let n = 0; n < Math.max(...between.map((before) => before[r].length)); n++) {
      columns.push([["", "\u00b7"], ...between.map((before) => before[r][n] || ["", ""])]);
    }
    if (r < ref.length) columns.push([["", ref[r]], ...at.map((made) => made[r])]);
  }
  return columns.length ? columns : [[["", "(no words)"], ...data.names.map(() => ["C", ""])]];
}

// One utterance: sound and pictures ----------------------------------------------------------------------------------

const KEYS = {ArrowLeft: -0.1, ArrowDown: -0.1, ArrowRight: 0.1, ArrowUp: 0.1, PageDown: -1, PageUp: 1};  // seconds

function look(details, number) {
  const of = JSON.parse(document.getElementById(`media-${number}`).textContent);
  if (of.why) {
    details.append(make("p", {class: "muted"}, `No sound: ${of.why}`));
    return;
  }
  const player = make("audio", {controls: "", preload: "metadata", ...(of.audio && {src: of.audio})});
  const place = (seconds) => `left:${Math.min(100, 100 * seconds / of.seconds).toFixed(2)}%`;
  const span = (seconds, text, more = {}) => make("span", {style: place(seconds), ...more}, text);
  const seek = (seconds) => { player.currentTime = Math.min(of.seconds, Math.max(0, seconds)); };
  const lines = [], sliders = [];
  const track = (kind, label, ...children) => {
    const line = make("div", {class: "at", style: "left:0"});
    lines.push(line);
    const made = make("div", {class: `track ${kind}`}, ...children, label, line);
    made.addEventListener("click", (event) => {
      const box = made.getBoundingClientRect();
      seek(of.seconds * (event.clientX - box.left) / box.width);
    });
    return made;
  };
  // A picture for keys as well; `heard` says what it shows at a second.
  const slider = (made, name, heard = () => "") => {
    if (!of.audio) return made;
    const about = {role: "slider", tabindex: 0, "aria-label": name, "aria-valuemin": 0, "aria-valuemax": of.seconds};
    for (const [key, value] of Object.entries(about)) made.setAttribute(key, value);
    sliders.push([made, heard]);
    made.addEventListener("keydown", (event) => {
      if (event.ctrlKey || event.altKey || event.metaKey) return;
      if (event.key in KEYS) seek(player.currentTime + KEYS[event.key]);
      else if (event.key === "Home" || event.key === "End") seek(event.key === "Home" ? 0 : of.seconds);
      else if (event.key === " ") player.paused ? player.play() : player.pause();
      else return;
      event.preventDefault();
    });
    return made;
  };
  const labels = (texts) => make("div", {class: "rows"}, ...texts.map((text, n) =>
    make("span", {style: `top:${100 * (n + 0.5) / texts.length}%`, title: text}, text)));
  const hear = make("img", {src: of.spectrogram, style: "height:7rem", alt: "spectrogram of the log mel features"});
  const step = [0.1, 0.2, 0.5, 1, 2, 5].find((size) => of.seconds / size <= 8) || 10;
  const ticks = Array.from({length: Math.floor(of.seconds / step) + 1}, (_, n) => +(n * step).toFixed(1));
  const keys = of.audio ? "a click or arrow keys move in time, the space bar plays" : "";
  details.append(of.audio ? player : make("p", {class: "muted"}, `No sound: ${of.silent}`),
    make("h4", {}, "What the encoder hears ", make("small", {}, ["log mel features, dark is silent", keys].filter(Boolean).join("; "))),
    slider(track("map", make("div", {class: "rows"}, make("span", {style: "top:8%"}, `${of.top / 1000} kHz`),
      make("span", {style: "top:92%"}, "0")), hear), "time in the spectrogram"),
    track("axis", "", ...ticks.map((seconds) => span(seconds, `${seconds} s`))));
  const when = of.spoken ? "the frame of its last token; in the first line its end in the alignment" : "the frame of its last token";
  details.append(make("h4", {}, "When each word was out ", make("small", {}, when)));
  if (of.spoken) details.append(spoken(of.spoken, "spoken", of, track, labels, span));
  of.words.forEach((words, system) => details.append(spoken(words, data.names[system], of, track, labels, span)));
  for (const picture of of.pictures) details.append(...drawn(picture, of, track, slider, labels, span));
  follow(player, lines, sliders, of.seconds);
}

const picture_width = () => list.clientWidth - 110;  // pixels, about

// Words end where they were out, those of one moment as one (attention may go back); one that would reach into its
// neighbour stands a line higher.
function spoken(words, name, of, track, labels, span) {
  let high = false, last = 0;
  const moments = new Map();
  for (const [word, seconds] of words.toSorted((a, b) => a[1] - b[1])) moments.set(seconds, [...moments.get(seconds) ?? [], word]);
  const texts = [...moments].map(([seconds, together]) => {
    const word = together.join(" ");
    high = !high && (seconds - last) * picture_width() / of.seconds < 7.5 * word.length + 4;
    last = seconds;
    return [word, seconds, high];
  });
  const kind = texts.some(([, , raised]) => raised) ? "words two" : "words";
  return track(kind, labels([name]), make("div", {class: "spoken"}, ...texts.map(([word, seconds, raised]) =>
    span(seconds, word, raised ? {class: "high"} : {}))));
}

function drawn(picture, of, track, slider, labels, span) {
  if (picture.why) return [make("p", {class: "muted"}, `No picture of ${picture.system}: ${picture.why}.`)];
  picture.rows = picture.rows.map((piece) => piece.replaceAll("\u2581", "\u2423"));  // a low line would be lost on a curve
  const name = picture.system === picture.head ? picture.head : `${picture.system}, ${picture.head}`;
  const title = make("h4", {}, name, " ", make("small", {}, picture.caption));
  const box = {viewBox: `0 0 ${of.seconds} 1`, preserveAspectRatio: "none", "aria-hidden": "true"};
  const time = (frame) => Math.min(of.seconds, frame * picture.hop);
  const frame = (seconds) => Math.min(picture.frames - 1, Math.floor(seconds / picture.hop));
  if (picture.map) {
    const height = Math.min(26, Math.max(5, 0.95 * picture.rows.length));
    const width = 100 * picture.frames * picture.hop / of.seconds;  // the last frame may reach beyond the sound
    const image = make("img", {src: picture.map, alt: `${picture.rows.length} rows by ${picture.frames} frames`,
      style: `height:${height}rem;width:${Math.min(100, width).toFixed(2)}%`});
    const points = picture.path.map(([t, row]) => `${time(t + 0.5)},${(row + 0.5) / picture.rows.length}`).join(" ");
    const path = points ? make("svg", box, make("polyline", {points, class: "under"}), make("polyline", {points})) : null;
    const passed = (seconds) => picture.path.findLast(([t]) => t <= frame(seconds));
    const heard = (seconds) => (passed(seconds) ? picture.rows[passed(seconds)[1]] : "");
    return [title, slider(track("map", labels(picture.rows), image, path), `time in ${name}`, heard)];
  }
  const peaks = [];
  const curves = picture.curves.map((curve, row) => {
    curve.forEach((value, t) => {
      const top = value >= SEEN && value >= (curve[t - 1] ?? 0) && value > (curve[t + 1] ?? 0);
      if (top && row) peaks.push([time(t + 0.5), value, picture.rows[row]]);
    });
    const points = curve.map((value, t) => `${time(t + 0.5)},${1 - value / 100}`).join(" ");
    const look = {style: `stroke:var(--s${row % 7})`, "stroke-dasharray": DASHES[row % DASHES.length]};
    return make("polyline", {points, ...(row ? look : {class: "blank"})});
  });
  const tops = apart(peaks, of.seconds).map(([seconds, up, text]) =>
    span(seconds, text, {class: "peak", style: `left:${(100 * seconds / of.seconds).toFixed(2)}%;bottom:${up}%`}));
  const scale = make("div", {class: "rows"}, make("span", {style: "top:0"}, "1"), make("span", {style: "top:100%"}, "0"));
  const heard = (seconds) => {
    const values = picture.curves.map((curve) => curve[frame(seconds)]);
    const likeliest = values.indexOf(Math.max(...values));
    return `${picture.rows[likeliest]} ${values[likeliest]} %`;
  };
  return [title, slider(track("curves", scale, make("svg", box, ...curves), ...tops), `time in ${name}`, heard)];
}

const SEEN = 5;  // percent: a lower peak is within the line of the axis
const DASHES = ["none", "7 3", "2 2", "9 3 2 3"];  // with seven colours 28 curves, and none alike
const LINE = 13;  // percent of a picture of curves that a letter is high

// Each letter on its peak, so that no colour is needed; one that would touch another goes above it.
function apart(peaks, seconds) {
  const placed = [];
  for (const [at, value, text] of peaks.sort((x, y) => y[1] - x[1])) {
    const width = (9 * text.length + 2) * seconds / picture_width();
    const touched = (up) => placed.find((other) => Math.abs(other.at - at) < (other.width + width) / 2 && Math.abs(other.up - up) < LINE);
    let up = value;
    for (let other = touched(up); other; other = touched(up)) up = other.up + LINE;
    placed.push({at, up, text, width});
  }
  return placed.map(({at, up, text}) => [at, up, text]);
}

// The line where it plays, in every picture; sliders speak where it stands still.
function follow(player, lines, sliders, seconds) {
  const move = () => {
    for (const line of lines) line.style.left = `${Math.min(100, 100 * player.currentTime / seconds)}%`;
    if (!player.paused) requestAnimationFrame(move);
    else tell();
  };
  const tell = () => {
    for (const [picture, heard] of sliders) {
      const now = Math.min(seconds, player.currentTime);
      picture.setAttribute("aria-valuenow", now.toFixed(2));
      picture.setAttribute("aria-valuetext", [`${now.toFixed(1)} of ${seconds.toFixed(1)} seconds`, heard(now)].filter(Boolean).join(", "));
    }
  };
  player.addEventListener("play", () => {
    for (const other of document.querySelectorAll("audio")) if (other !== player) other.pause();
    move();
  });
  player.addEventListener("seeked", move);
  tell();
}

choose();
let width = list.clientWidth;
addEventListener("resize", () => {
  if (list.clientWidth === width) return;
  width = list.clientWidth;
  clearTimeout(typing);
  typing = setTimeout(() => {  // words only: what is open stays so, and plays on
    [...list.children].forEach((article, place) => article.querySelector(".gloss").replaceWith(gloss(data.rows[chosen[place]])));
  }, 200);
});
