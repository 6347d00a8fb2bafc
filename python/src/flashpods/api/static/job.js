// One job: its facts, its output as it comes, its artifacts, and an agent's diff.

import { ApiError, badge, call, duration, follow, h, pause, repeat, request, size, time } from "/ui/api.js";

const MOST_CHARS = 2 * 1024 ** 2; // of output that is shown; the oldest goes
const MOST_DIFF = 1024 ** 2; // bytes
const MOST_SAVED = 256 * 1024 ** 2; // bytes that a page should hold; the command line has no limit
const PATCH = "changes.patch";
const ESCAPES = /\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)|[@-Z\\-_])/g;

export function job({ signal, told, id }) {
  const facts = h("div");
  const artifacts = h("div");
  const diff = h("div");
  let ended = false;

  async function look() {
    // The answer comes when something has changed, or after the time.
    const path = `/jobs/${id}${facts.hasChildNodes() && !ended ? "?wait=30" : ""}`;
    const found = await call(path, { signal });
    facts.replaceChildren(describe(found, cancel));
    if (found.completed_at && !ended) {
      ended = true;
      await showArtifacts(id, found, artifacts, diff, signal);
    }
  }

  async function cancel() {
    await call(`/jobs/${id}`, { method: "DELETE", signal });
  }

  async function run() {
    await repeat(async () => {
      await look();
      if (ended) await pause(60_000, signal).catch(() => {});
    }, 200, signal, told);
  }

  run();
  return {
    title: `Job ${id}`,
    element: h("div", {}, h("div.card", {}, facts), output(id, signal, told), artifacts, diff),
  };
}

function describe(job, cancel) {
  const button = h("button.danger", { type: "button", click: press }, "Cancel");
  async function press() {
    if (!confirm("Cancel this job? It can't be started again.")) return;
    button.disabled = true;
    await cancel().catch((error) => (button.after(h("span.error", { role: "alert" }, error.message)), (button.disabled = false)));
  }
  const ask = !job.completed_at && !job.cancel_requested;
  const rows = [
    ["Status", h("span", {}, badge(job.status), job.phase ? ` ${job.phase}` : "", job.cancel_requested && !job.completed_at ? " cancelling" : "")],
    ["Type", job.type],
    [job.command ? "Command" : "Task", h("code", {}, job.command ?? job.task ?? "")],
    ["Branch", job.git_branch],
    ["Image", job.image],
    ["Granted", `${job.cpus} CPUs, ${job.memory_gb} GiB, ${job.timeout_minutes} min`],
    ["Accepted", time(job.created_at)],
    ["Started", time(job.started_at)],
    ["Ended", time(job.completed_at)],
    ["Time", duration(job.duration_seconds ?? job.elapsed_seconds)],
    ["Exit code", job.exit_code === null ? null : String(job.exit_code)],
    ["Error", job.error && h("span.error", {}, job.error)],
    ...job.warnings.map((warning) => ["Warning", warning]),
  ];
  return h("div", {},
    h("dl.facts", {}, rows.filter(([, value]) => value).map(([name, value]) => [h("dt", {}, name), h("dd", {}, value)])),
    h("details", {}, h("summary", {}, "History"),
      h("table", {}, h("tbody", {}, job.events.map((event) =>
        h("tr", {}, h("td", {}, time(event.at)), h("td", {}, badge(event.to)), h("td.what", {}, event.why)))))),
    ask ? h("p", {}, button) : null);
}

function output(id, signal, told) {
  const text = document.createTextNode("");
  const view = h("pre.output", { id: "output", tabindex: 0, role: "log", "aria-label": "Output", "aria-live": "off" }, text);
  const follows = h("input", { type: "checkbox", id: "follows", checked: true });
  const said = h("span.soft", { role: "status" }, "live");
  let waiting = "";

  // One change a frame, however fast the lines come.
  function show() {
    const fresh = waiting;
    waiting = "";
    text.appendData(fresh);
    if (text.length > MOST_CHARS) {
      text.deleteData(0, text.length - MOST_CHARS);
      said.textContent = "live; the beginning is not shown, the command line has it";
    }
    if (follows.checked) view.scrollTop = view.scrollHeight;
  }

  function take(batch) {
    if (!waiting) requestAnimationFrame(show);
    waiting += batch.replace(ESCAPES, "");
    if (waiting.length > MOST_CHARS) waiting = waiting.slice(-MOST_CHARS);
  }

  follow(id, { take, told, signal }).then(
    () => signal.aborted || (said.textContent = "complete"),
    (error) => {
      said.textContent = error.message;
      if (error.status === 401) told(error);
    },
  );
  return h("section", { "aria-labelledby": "output-title" },
    h("h2", { id: "output-title" }, "Output"),
    h("div.bar", {}, said, h("span.end", {}, follows, " ", h("label", { for: "follows" }, "Stay at the end"))),
    view);
}

async function showArtifacts(id, found, place, diff, signal) {
  let list;
  try {
    list = (await call(`/jobs/${id}/artifacts`, { signal })).artifacts;
  } catch (error) {
    if (!(error instanceof ApiError) || error.status === 401) throw error;
    place.replaceChildren(h("p.soft", {}, error.message));
    return;
  }
  if (!list.length) return;
  place.replaceChildren(h("section", { "aria-labelledby": "artifacts-title" },
    h("h2", { id: "artifacts-title" }, "Artifacts"),
    h("div.card.scroll", {}, h("table", {},
      h("thead", {}, h("tr", {}, h("th", { scope: "col" }, "Name"), h("th.number", { scope: "col" }, "Size"), h("th", { scope: "col" }, "Save"))),
      h("tbody", {}, list.map((artifact) => h("tr", {},
        h("td.what", {}, artifact.name + (artifact.type === "directory" ? "/" : "")),
        h("td.number", {}, size(artifact.size_bytes)),
        h("td", {}, saver(id, artifact, signal)))))))));
  const patch = list.find((artifact) => artifact.name === PATCH && artifact.type === "file");
  if (patch) await showDiff(id, patch, diff, signal);
}

function saver(id, artifact, signal) {
  if (artifact.size_bytes > MOST_SAVED) return h("code", {}, `flashpods artifacts ${id}`);
  const button = h("button.quiet", { type: "button", click: save, "aria-label": `Save ${artifact.name}` }, "Save");
  async function save() {
    button.disabled = true;
    try {
      const response = await request(`/jobs/${id}/artifacts/${encodeURIComponent(artifact.name)}`, { signal });
      const url = URL.createObjectURL(await response.blob());
      h("a", { href: url, download: artifact.name + (artifact.type === "directory" ? ".tar" : "") }).click();
      setTimeout(() => URL.revokeObjectURL(url), 60_000);
    } catch (error) {
      button.after(h("span.error", { role: "alert" }, ` ${error.message}`));
    }
    button.disabled = false;
  }
  return button;
}

async function showDiff(id, patch, place, signal) {
  const response = await request(`/jobs/${id}/artifacts/${PATCH}`, {
    signal, headers: patch.size_bytes > MOST_DIFF ? { Range: `bytes=0-${MOST_DIFF - 1}` } : {},
  });
  const lines = (await response.text()).split("\n");
  if (lines.at(-1) === "") lines.pop();
  let added = 0;
  let removed = 0;
  const marked = lines.map((line) => {
    const kind = kindOf(line);
    if (kind === "added") added += 1;
    if (kind === "removed") removed += 1;
    return h(`span.${kind}`, {}, line || " ");
  });
  const cut = patch.size_bytes > MOST_DIFF ? `; the first ${size(MOST_DIFF)} of ${size(patch.size_bytes)}` : "";
  place.replaceChildren(h("section", { "aria-labelledby": "diff-title" },
    h("h2", { id: "diff-title" }, "Changes"),
    h("p.soft", {}, `${added} lines added, ${removed} removed${cut}`),
    h("pre.diff", { id: "diff", tabindex: 0, "aria-label": "Changes" }, marked)));
}

function kindOf(line) {
  if (/^(diff --git|index |new file|deleted file|similarity|rename |--- |\+\+\+ )/.test(line)) return "file";
  if (line.startsWith("@@")) return "place";
  if (line.startsWith("+")) return "added";
  return line.startsWith("-") ? "removed" : "same";
}
