// Without this script every form still works; with it answers arrive in place, sounds play and can be recorded.
"use strict";

const one = (what, where = document) => where.querySelector(what);
const all = (what, where = document) => [...where.querySelectorAll(what)];
const clock = (s) => `${Math.floor(s / 60)}:${String(Math.floor(s % 60)).padStart(2, "0")}.${Math.floor((s * 10) % 10)}`;
const size = (n) => (n < 1e6 ? `${Math.ceil(n / 1e3)} kB` : `${(n / 1e6).toFixed(1)} MB`);
const MOST_S = 595; // of a recording: the server takes 10 minutes
const sent = []; // addresses of the files of the last question, in their order; they never leave the browser

// A zone for one file: dropped, chosen or recorded.
function zone(drop) {
  const input = one("input[type=file]", drop);
  const says = one(".says", drop);
  const seen = one(".seen", drop);
  const clear = one(".clear", drop);
  const empty = says.textContent;
  let address = null;
  const show = () => {
    const file = input.files[0];
    if (address) URL.revokeObjectURL(address);
    address = file ? URL.createObjectURL(file) : null;
    drop.classList.toggle("full", Boolean(file));
    says.textContent = file ? `${size(file.size)}, ${file.name}` : empty;
    seen.replaceChildren();
    seen.hidden = clear.hidden = !file;
    if (!file) return;
    const view = document.createElement(drop.dataset.kind === "sound" ? "audio" : "img");
    view.src = address;
    if (drop.dataset.kind === "sound") {
      view.controls = true;
      view.setAttribute("aria-label", "The recording that you chose");
    } else view.alt = "The photo that you chose";
    seen.append(view);
  };
  input.addEventListener("change", show);
  clear.addEventListener("click", () => { input.value = ""; show(); input.focus(); });
  for (const kind of ["dragenter", "dragover"]) drop.addEventListener(kind, () => drop.classList.add("over"));
  for (const kind of ["dragleave", "drop"]) drop.addEventListener(kind, () => drop.classList.remove("over"));
  if (drop.dataset.kind === "sound" && navigator.mediaDevices && window.MediaRecorder) recorder(drop, input, show);
}

// Record with the browser's own recorder, and turn what it made into a WAV, which every server reads.
function recorder(drop, input, show) {
  const button = document.createElement("button");
  const says = one(".says", drop);
  button.type = "button";
  button.className = "record";
  button.textContent = "Record";
  button.setAttribute("aria-pressed", "false");
  one(".more", drop).prepend(button);
  let recording = null, ticking = 0;
  button.addEventListener("click", async () => {
    if (recording) { recording.stop(); return; }
    let stream;
    try {
      stream = await navigator.mediaDevices.getUserMedia({ audio: { echoCancellation: false, noiseSuppression: false, autoGainControl: false } });
    } catch { says.textContent = "No microphone: allow it in the browser, or choose a file"; return; }
    const parts = [];
    recording = new MediaRecorder(stream);
    recording.addEventListener("dataavailable", (event) => parts.push(event.data));
    recording.addEventListener("stop", async () => {
      recording = null;
      clearInterval(ticking);
      for (const track of stream.getTracks()) track.stop();
      button.textContent = "Record";
      button.setAttribute("aria-pressed", "false");
      const context = new AudioContext();
      const sound = await context.decodeAudioData(await new Blob(parts).arrayBuffer());
      await context.close();
      const files = new DataTransfer();
      files.items.add(new File([wav(sound)], "recording.wav", { type: "audio/wav" }));
      input.files = files.files;
      show();
    });
    recording.start();
    const started = Date.now();
    const tick = () => {
      const seconds = (Date.now() - started) / 1000;
      button.textContent = `Stop ${clock(seconds).slice(0, -2)}`;
      if (seconds >= MOST_S && recording) recording.stop();
    };
    tick();
    ticking = setInterval(tick, 500);
    button.setAttribute("aria-pressed", "true");
  });
}

// 16-bit mono WAV of a decoded sound.
function wav(sound) {
  const n = sound.length;
  const view = new DataView(new ArrayBuffer(44 + 2 * n));
  const word = (at, text) => [...text].forEach((letter, i) => view.setUint8(at + i, letter.charCodeAt(0)));
  word(0, "RIFF"); view.setUint32(4, 36 + 2 * n, true); word(8, "WAVEfmt ");
  view.setUint32(16, 16, true); view.setUint16(20, 1, true); view.setUint16(22, 1, true);
  view.setUint32(24, sound.sampleRate, true); view.setUint32(28, 2 * sound.sampleRate, true);
  view.setUint16(32, 2, true); view.setUint16(34, 16, true); word(36, "data"); view.setUint32(40, 2 * n, true);
  const channels = Array.from({ length: sound.numberOfChannels }, (_, c) => sound.getChannelData(c));
  for (let i = 0; i < n; i++) {
    let sum = 0;
    for (const channel of channels) sum += channel[i];
    view.setInt16(44 + 2 * i, Math.max(-1, Math.min(1, sum / channels.length)) * 32767, true);
  }
  return view.buffer;
}

// Send a form without leaving the page; what comes back is a part of a page, made by the server.
async function ask(form, button) {
  const into = document.getElementById(form.dataset.into);
  const data = new FormData(form, button || undefined);
  if (form.id === "ask") {
    sent.splice(0).forEach((address) => URL.revokeObjectURL(address));
    for (const file of data.getAll("files")) if (file.name) sent.push(URL.createObjectURL(file));
  }
  const isForm = form.enctype === "multipart/form-data";
  const main = one("button.main", form);
  if (main) main.setAttribute("aria-busy", "true");
  const busy = document.createElement("p");
  busy.className = "busy";
  busy.textContent = form.dataset.busy;
  into.replaceChildren(busy);
  try {
    const answer = await fetch(form.action, {
      method: "POST",
      body: isForm ? data : new URLSearchParams(data),
      headers: { "X-Part": "1", Accept: "text/html" },
    });
    if (answer.redirected) { location.reload(); return; }
    into.innerHTML = await answer.text();
  } catch {
    into.innerHTML = '<p class="refused" role="alert">The server does not answer.</p>';
  } finally {
    if (main) main.removeAttribute("aria-busy");
  }
  furnish(into);
  const title = one("h2, .refused", into);
  if (title) { title.tabIndex = -1; title.focus({ preventScroll: true }); title.scrollIntoView({ block: "nearest" }); }
}

// Give life to an answer: players, spectrograms, keys.
function furnish(where) {
  all("[data-file] .sound", where).forEach((figure) => player(figure, sent[Number(figure.closest("[data-file]").dataset.file)]));
  all(".one .hint", where).forEach((hint) => { hint.hidden = false; });
  const loop = one(".one audio", where);
  if (loop && navigator.userActivation && navigator.userActivation.hasBeenActive) loop.play().catch(() => {});
}

// A spectrogram to click into: a slider for the keyboard, and the list of detections beside it.
function player(figure, address) {
  if (!address) return;
  const audio = one("audio", figure);
  const strip = one(".strip", figure);
  const head = one(".head", figure);
  const seconds = Number(figure.dataset.seconds);
  const buttons = all(".from", figure.closest("[data-file]"));
  let until = Infinity;
  let wanted = null; // one jump at a time: a browser may never end a jump that another one interrupts
  const place = () => wanted ?? audio.currentTime;
  const jump = () => { if (wanted !== null) { audio.currentTime = wanted; wanted = null; } };
  audio.src = address;
  audio.setAttribute("aria-label", "The recording that you sent");
  audio.hidden = one(".hint", figure).hidden = false;
  strip.classList.add("ready");
  const show = () => {
    const now = place();
    head.style.left = `${(100 * Math.min(now, seconds)) / seconds}%`;
    strip.setAttribute("aria-valuenow", now.toFixed(1));
    strip.setAttribute("aria-valuetext", clock(now));
    for (const button of buttons) {
      button.classList.toggle("now", !audio.paused && now >= Number(button.dataset.start) && now < Number(button.dataset.end));
    }
    if (now >= until) { until = Infinity; audio.pause(); }
  };
  const run = () => { show(); if (!audio.paused) requestAnimationFrame(run); };
  const go = (to, play) => {
    until = Infinity;
    wanted = Math.max(0, Math.min(seconds, to));
    if (!audio.seeking) jump();
    show();
    if (play) audio.play();
  };
  audio.addEventListener("seeked", jump);
  for (const kind of ["play", "pause", "seeked", "timeupdate"]) audio.addEventListener(kind, run);
  strip.addEventListener("click", (event) => {
    const box = strip.getBoundingClientRect();
    go((seconds * (event.clientX - box.left)) / box.width, true);
  });
  strip.addEventListener("keydown", (event) => {
    const step = event.shiftKey ? 5 : 0.5;
    const moves = { ArrowLeft: -step, ArrowDown: -step, ArrowRight: step, ArrowUp: step, PageDown: -5, PageUp: 5 };
    if (event.key in moves) go(place() + moves[event.key], false);
    else if (event.key === "Home") go(0, false);
    else if (event.key === "End") go(seconds, false);
    else if (event.key === " " || event.key === "Enter") audio.paused ? audio.play() : audio.pause();
    else return;
    event.preventDefault();
  });
  for (const button of buttons) {
    button.addEventListener("click", () => { go(Number(button.dataset.start), true); until = Number(button.dataset.end); });
  }
}

// More or less like a hit: a chip that stays with the question until it is unticked.
function steer(button) {
  const item = document.createElement("li");
  const label = document.createElement("label");
  const box = document.createElement("input");
  Object.assign(box, { type: "checkbox", name: button.name, value: button.value, checked: true });
  label.append(box, ` ${button.name === "like" ? "more" : "less"} like ${button.dataset.what}`);
  item.append(label);
  one("#steer").append(item);
}

document.addEventListener("submit", (event) => {
  const form = event.target;
  if (!form.dataset.into) return;
  event.preventDefault();
  const button = event.submitter;
  const steers = button && (button.name === "like" || button.name === "unlike");
  if (steers) steer(button);
  ask(form, steers ? null : button);
});
document.addEventListener("change", (event) => {
  if (event.target.closest("#steer")) { event.target.closest("li").remove(); ask(one("#ask")); }
});
document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || event.target.matches("input, select, textarea")) return;
  const button = one(`.one [data-key="${CSS.escape(event.key.toLowerCase())}"]`);
  if (button) { event.preventDefault(); button.click(); return; }
  const audio = one(".one audio");
  if (audio && event.key === " " && !event.target.matches("button, a, audio, summary")) {
    event.preventDefault();
    audio.paused ? audio.play() : audio.pause();
  }
});
all(".drop").forEach(zone);
furnish(document);
