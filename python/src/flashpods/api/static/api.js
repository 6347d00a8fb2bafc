// The host's API, and the few ways in which this page makes elements of its answers.
// The token lives in this tab's sessionStorage and in the Authorization header, nowhere else.

const KEY = "flashpods-token";
const TOKEN = /^[!-~]{16,512}$/; // what the host takes for one
const MOST_WAIT = 30_000; // ms between tries while the host is away

export class ApiError extends Error {
  constructor(status, code, message) {
    super(message);
    this.status = status;
    this.code = code;
  }
}

export const token = {
  get: () => sessionStorage.getItem(KEY),
  forget: () => sessionStorage.removeItem(KEY),
  keep(text) {
    if (!TOKEN.test(text)) {
      throw new Error("A token is 16 to 512 letters, digits and signs, without spaces.");
    }
    sessionStorage.setItem(KEY, text);
  },
};

export const pause = (ms, signal) =>
  new Promise((resolve, reject) => {
    signal?.throwIfAborted();
    const timer = setTimeout(resolve, ms);
    signal?.addEventListener("abort", () => (clearTimeout(timer), reject(signal.reason)), { once: true });
  });

// Answers a Response that is a success. A client over its rate waits as it is told, and asks again.
export async function request(path, { method = "GET", headers = {}, signal } = {}) {
  for (let attempt = 0; ; attempt += 1) {
    const response = await fetch(path, {
      method,
      signal,
      headers: { ...headers, Authorization: `Bearer ${token.get()}` },
      cache: "no-store",
      credentials: "omit",
      redirect: "error",
    });
    if (response.ok) return response;
    const said = await response.json().catch(() => ({}));
    if (response.status === 429 && said.error === "rate_limited" && attempt < 5) {
      await pause(Math.min(said.retry_after_seconds ?? 1, 5) * 1000, signal);
      continue;
    }
    throw new ApiError(response.status, said.error ?? "http_error", said.message ?? `HTTP ${response.status}`);
  }
}

export const call = async (path, options) => (await request(path, options)).json();

// Calls `step` for ever, `every` ms apart while the page is to be seen; the host may be away meanwhile.
export async function repeat(step, every, signal, told) {
  let wait = every;
  while (!signal.aborted) {
    try {
      await step();
      told(null);
      wait = every;
    } catch (error) {
      if (signal.aborted) return;
      told(error);
      if (error.status === 401) return;
      wait = Math.min(Math.max(wait, 1000) * 2, MOST_WAIT);
    }
    await pause(wait, signal).catch(() => {});
    while (document.hidden && !signal.aborted) await pause(500, signal).catch(() => {});
  }
}

// Follows a job's output to its end. EventSource can't send a header, so the stream is read here.
// `take` gets the text of each batch; a broken stream is resumed after the last batch.
export async function follow(job, { take, told, signal }) {
  const headers = {};
  for (let wait = 500; !signal.aborted; ) {
    try {
      const response = await request(`/jobs/${job}/output?follow=true`, { headers, signal });
      told(null);
      for await (const event of events(response.body, signal)) {
        if (event.id !== undefined) headers["Last-Event-ID"] = event.id;
        wait = 500;
        if (event.name === "end") return;
        take(event.name === "encoded" ? JSON.parse(event.data) : `${event.data}\n`);
      }
    } catch (error) {
      if (signal.aborted) return;
      if ([401, 410].includes(error.status)) throw error;
      told(error.code === "logs_not_available" ? null : error);
    }
    await pause(wait, signal).catch(() => {});
    wait = Math.min(wait * 2, MOST_WAIT);
  }
}

// Yields the events of a server-sent stream (the WHATWG's format, which our host writes).
export async function* events(body, signal) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  signal?.addEventListener("abort", () => reader.cancel().catch(() => {}), { once: true });
  let rest = "";
  try {
    for (;;) {
      const { done, value } = await reader.read();
      if (done) return;
      const blocks = (rest + value).split("\n\n");
      rest = blocks.pop();
      for (const block of blocks) {
        const event = { name: "message", data: [] };
        for (const line of block.split("\n")) {
          const at = line.indexOf(":");
          const field = line.slice(0, at);
          const text = line.slice(at + 1).replace(/^ /, "");
          if (field === "data") event.data.push(text);
          else if (field === "event") event.name = text;
          else if (field === "id") event.id = text;
        }
        if (event.data.length) yield { ...event, data: event.data.join("\n") };
      }
    }
  } finally {
    reader.cancel().catch(() => {});
  }
}

// ---------------------------------------------------------------- elements

const SVG = "http://www.w3.org/2000/svg";

// h("a.badge", {href}, "text", element): text never becomes markup.
export function h(what, attributes = {}, ...children) {
  return fill(document.createElement(what.split(".")[0]), what, attributes, children);
}

export function s(what, attributes = {}, ...children) {
  return fill(document.createElementNS(SVG, what.split(".")[0]), what, attributes, children);
}

function fill(element, what, attributes, children) {
  const classes = what.split(".").slice(1);
  if (classes.length) element.setAttribute("class", classes.join(" "));
  for (const [name, value] of Object.entries(attributes)) {
    if (typeof value === "function") element.addEventListener(name, value);
    else if (value !== undefined && value !== false) element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.flat(Infinity).filter((child) => child !== null && child !== undefined));
  return element;
}

export const badge = (text) => h(`span.badge.${text}`, {}, text.replace("_", " "));

export function size(bytes) {
  const units = ["B", "KiB", "MiB", "GiB", "TiB"];
  const unit = bytes ? Math.min(Math.floor(Math.log2(bytes) / 10), units.length - 1) : 0;
  return `${(bytes / 1024 ** unit).toFixed(unit ? 1 : 0)} ${units[unit]}`;
}

export function duration(seconds) {
  if (seconds === undefined || seconds === null) return "";
  if (seconds < 10) return `${seconds.toFixed(1)} s`;
  if (seconds < 60) return `${Math.round(seconds)} s`;
  const minutes = Math.floor(seconds / 60);
  return minutes < 60 ? `${minutes} min ${Math.round(seconds % 60)} s` : `${Math.floor(minutes / 60)} h ${minutes % 60} min`;
}

export function time(text) {
  if (!text) return null;
  const at = new Date(text);
  const today = at.toDateString() === new Date().toDateString();
  return h("time", { datetime: text, title: text }, today ? at.toLocaleTimeString() : at.toLocaleString());
}
