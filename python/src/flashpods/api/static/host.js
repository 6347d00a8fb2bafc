// The host: what is reserved and how full the disks are, now and over the last hours; its health.

import { badge, call, duration, h, repeat, s } from "/ui/api.js";

const EVERY = 5000; // ms
const HISTORY_EVERY = 12; // looks between those at the history
const KINDS = ["first", "second", "third"];
const WIDTH = 400;
const HEIGHT = 170;
const LEFT = 36;
const FOOT = 22;

export function host({ signal, told }) {
  const now = h("div.grid");
  const past = h("div.grid");
  let samples = [];
  let looks = 0;

  async function look() {
    const [capacity, health] = [await call("/capacity", { signal }), await unwell(signal)];
    if (looks % HISTORY_EVERY === 0) samples = (await call("/capacity/history", { signal })).samples;
    looks += 1;
    const disks = health.checks.disk?.used_percent ?? {};
    now.replaceChildren(numbers(capacity), wellness(health), disk(disks));
    past.replaceChildren(...charts([...samples, point(capacity, samples)], capacity));
  }

  repeat(look, EVERY, signal, told);
  return { title: "Host", element: h("div", {}, now, h("h2", {}, "The last hours"), past) };
}

// A degraded host answers 503 with the same body.
async function unwell(signal) {
  const response = await fetch("/health", { signal, cache: "no-store", credentials: "omit" });
  return response.json();
}

function point(capacity, samples) {
  return {
    at: new Date().toISOString(),
    reserved: capacity.reserved,
    running_jobs: capacity.running_jobs,
    disk_used_percent: samples.at(-1)?.disk_used_percent ?? {},
  };
}

const facts = (title, rows) =>
  h("section.card", { "aria-label": title }, h("h2", {}, title),
    h("dl.facts", {}, rows.map(([name, value]) => [h("dt", {}, name), h("dd", {}, value)])));

function numbers(capacity) {
  const of = (what, unit) => `${capacity.reserved[what]} of ${capacity.host[what]}${unit}`;
  return facts("Capacity", [
    ["CPUs", of("cpus", "")],
    ["Memory", of("memory_gb", " GiB")],
    ["Jobs", String(capacity.running_jobs)],
    ["New jobs", capacity.draining ? badge("warning") : badge("ok")],
    ...(capacity.draining ? [["", "The host is drained: it takes none."]] : []),
  ]);
}

function wellness(health) {
  return facts("Health", [
    ["Status", badge(health.status === "healthy" ? "ok" : "failing")],
    ...Object.entries(health.checks).map(([name, found]) => [
      name, h("span", {}, badge(found.status), found.message ? ` ${found.message}` : ""),
    ]),
    ["Up", duration(health.uptime_seconds)],
    ["Version", health.version],
  ]);
}

function disk(used) {
  return facts("Disks", Object.entries(used).map(([path, percent]) => [
    path, h("span", {}, h("meter", { min: 0, max: 100, low: 70, high: 85, optimum: 0, value: percent, "aria-label": path }), ` ${percent} %`),
  ]));
}

function charts(samples, capacity) {
  const trees = Object.keys(samples[0]?.disk_used_percent ?? {});
  return [
    chart("CPUs reserved", samples, capacity.host.cpus, "", [["reserved", (point) => point.reserved.cpus]]),
    chart("Memory reserved", samples, capacity.host.memory_gb, " GiB", [["reserved", (point) => point.reserved.memory_gb]]),
    chart("Disks used", samples, 100, " %", trees.map((tree) => [tree, (point) => point.disk_used_percent[tree]]), 85),
  ];
}

function chart(title, samples, most, unit, lines, limit) {
  const from = Date.parse(samples[0].at);
  const span = Math.max(Date.parse(samples.at(-1).at) - from, 1000);
  const x = (point) => LEFT + ((Date.parse(point.at) - from) / span) * (WIDTH - LEFT - 8);
  const y = (value) => 8 + (1 - value / most) * (HEIGHT - FOOT - 8);
  const last = lines.map(([name, value]) => `${name} ${value(samples.at(-1)) ?? "?"}${unit}`).join(", ");
  const marks = [0, most / 2, most].map((value) => [
    s("line.axis", { x1: LEFT, x2: WIDTH - 8, y1: y(value), y2: y(value) }),
    s("text", { x: LEFT - 6, y: y(value) + 4, "text-anchor": "end" }, String(Math.round(value * 10) / 10)),
  ]);
  const drawn = lines.map(([, value], index) => {
    const known = samples.filter((point) => value(point) !== undefined);
    const path = known.map((point, n) => `${n ? "L" : "M"}${x(point).toFixed(1)} ${y(value(point)).toFixed(1)}`).join(" ");
    return s(`path.line.${KINDS[index % KINDS.length]}`, { d: path });
  });
  return h("figure.card", {},
    h("figcaption", {}, h("strong", {}, title), h("span.soft", {}, ` of ${most}${unit}`)),
    s("svg.chart", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, role: "img", "aria-label": `${title}: now ${last} of ${most}${unit}` },
      marks,
      limit ? s("line.limit", { x1: LEFT, x2: WIDTH - 8, y1: y(limit), y2: y(limit) }) : null,
      drawn,
      s("text", { x: LEFT, y: HEIGHT - 6 }, new Date(from).toLocaleTimeString()),
      s("text", { x: WIDTH - 8, y: HEIGHT - 6, "text-anchor": "end" }, "now")),
    h("ul.legend", {}, lines.map(([name], index) => h(`li.${KINDS[index % KINDS.length]}`, {}, h("span", {}, name)))));
}
