// Which view is shown: the token first, then what the address's hash says.

import { call, h, token } from "/ui/api.js";
import { jobs } from "/ui/jobs.js";
import { job } from "/ui/job.js";
import { host } from "/ui/host.js";

const ROUTES = [
  [/^#\/jobs\/([0-9a-f]{16})$/, job],
  [/^#\/host$/, host],
  [/^#\/jobs$/, jobs],
];

const main = document.getElementById("main");
const nav = document.getElementById("nav");
const state = document.getElementById("state");
const leave = document.getElementById("leave");
let current = new AbortController();

// Every view says here whether its last look succeeded.
function told(error) {
  if (error?.status === 401) {
    token.forget();
    show("The host does not take this token any more.");
    return;
  }
  state.textContent = error ? `Not up to date: ${error.message}` : "Live";
  state.classList.toggle("lost", Boolean(error));
}

function show(why = "") {
  current.abort();
  current = new AbortController();
  const known = token.get() !== null;
  nav.hidden = leave.hidden = !known;
  if (!known) {
    state.textContent = "";
    main.replaceChildren(login(why));
    document.title = "Flashpods";
    main.querySelector("input").focus();
    return;
  }
  const [, view, match] = ROUTES.map(([rule, found]) => [rule, found, rule.exec(location.hash)]).find(
    ([, , found]) => found,
  ) ?? [null, jobs, []];
  for (const link of nav.querySelectorAll("a")) {
    const here = location.hash.startsWith(link.hash) || (view === jobs && link.hash === "#/jobs");
    if (here) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  state.textContent = "Loading";
  state.classList.remove("lost");
  const { title, element } = view({ signal: current.signal, told, id: match[1] });
  document.title = `${title} - Flashpods`;
  main.replaceChildren(h("h1", {}, title), element);
  main.focus({ preventScroll: true });
}

function login(why) {
  const input = h("input", {
    id: "token", name: "token", type: "password", autocomplete: "off", spellcheck: "false",
    required: true, "aria-describedby": "hint",
  });
  const said = h("p.error", { role: "alert" }, why);
  const button = h("button", { type: "submit" }, "Open");
  async function submit(event) {
    event.preventDefault();
    button.disabled = true;
    said.textContent = "";
    try {
      token.keep(input.value.trim());
      await call("/capacity");
      if (!ROUTES.some(([rule]) => rule.test(location.hash))) history.replaceState(null, "", "#/jobs");
      show();
    } catch (error) {
      token.forget();
      said.textContent = error.message;
      button.disabled = false;
      input.focus();
    }
  }
  return h("form.card.login", { submit, autocomplete: "off" },
    h("h1", {}, "Flashpods"),
    h("label", { for: "token" }, "The host's token"),
    input,
    h("p.soft", { id: "hint" }, "The one that the command line uses. This tab forgets it when it is closed."),
    said,
    button,
  );
}

leave.addEventListener("click", () => {
  token.forget();
  show();
});
window.addEventListener("hashchange", () => show());
show();
