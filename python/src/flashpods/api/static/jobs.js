// The list of jobs, newest first.

import { badge, call, duration, h, repeat, time } from "/ui/api.js";

const EVERY = 2000; // ms
const LIMIT = 30;
const FILTERS = ["all", "active", "running", "completed", "failed", "timed_out", "cancelled"];

export function jobs({ signal, told }) {
  let cursors = []; // of the pages before this one
  let next = null;
  let wake = () => {};
  const rows = h("tbody");
  const count = h("span.soft", { role: "status" });
  const filter = h("select", { id: "filter", change: () => turn([]) },
    FILTERS.map((name) => h("option", { value: name }, name.replace("_", " "))));
  const newer = h("button.quiet", { type: "button", click: () => turn(cursors.slice(0, -1)) }, "Newer");
  const older = h("button.quiet", { type: "button", click: () => turn([...cursors, next]) }, "Older");

  function turn(to) {
    cursors = to;
    wake();
  }

  async function look() {
    const query = new URLSearchParams({ status: filter.value, limit: LIMIT });
    if (cursors.length) query.set("cursor", cursors.at(-1));
    const asked = query.toString();
    const page = await call(`/jobs?${asked}`, { signal });
    next = page.next_cursor;
    newer.disabled = !cursors.length;
    older.disabled = next === null;
    count.textContent = `${page.total} job${page.total === 1 ? "" : "s"}`;
    const focused = document.activeElement?.getAttribute("href");
    rows.replaceChildren(...(page.jobs.length ? page.jobs.map(row) : [h("tr", {}, h("td.soft", { colspan: 7 }, "None."))]));
    if (focused) rows.querySelector(`a[href="${CSS.escape(focused)}"]`)?.focus();
  }

  // A change of page is looked at at once, beside the steady look.
  wake = () => look().then(() => told(null), (error) => signal.aborted || told(error));
  repeat(look, EVERY, signal, told);
  return {
    title: "Jobs",
    element: h("div.card", {},
      h("div.bar", {}, h("label", { for: "filter" }, "Show"), filter, count, h("span.end", {}, newer, " ", older)),
      h("div.scroll", {}, h("table", { id: "jobs" },
        h("thead", {}, h("tr", {},
          ["Job", "Status", "Type", "What"].map((name) => h("th", { scope: "col" }, name)),
          ["CPUs", "Memory", "Time"].map((name) => h("th.number", { scope: "col" }, name)),
          h("th", { scope: "col" }, "Accepted"))),
        rows))),
  };
}

function row(job) {
  const what = job.command ?? job.task ?? "";
  return h("tr", {},
    h("td", {}, h("a.mono", { href: `#/jobs/${job.id}` }, job.id)),
    h("td", {}, badge(job.status), job.cancel_requested && !job.completed_at ? h("div.soft", {}, "cancelling") : null),
    h("td", {}, job.type),
    h("td.what.mono", {}, what.length > 160 ? `${what.slice(0, 160)}…` : what),
    h("td.number", {}, String(job.cpus)),
    h("td.number", {}, `${job.memory_gb} GiB`),
    h("td.number", {}, duration(job.duration_seconds ?? job.elapsed_seconds)),
    h("td", {}, time(job.created_at)));
}
