// Asks for the page again and puts the parts that changed in place. Without it the page reloads itself by a meta element.
"use strict";
(() => {
  const PAUSE = 3000, PATIENCE = 10000;
  const lost = document.getElementById("lost"), name = document.querySelector("h1").textContent;
  let asking = false;

  function put(fresh) {
    for (const part of document.querySelectorAll("[data-live]")) {
      const now = fresh.getElementById(part.id);
      if (now) morph(part, now); else part.replaceChildren();
    }
    document.title = fresh.title;
    document.querySelector("link[rel=icon]").href = fresh.querySelector("link[rel=icon]").href;
    document.querySelectorAll("figure[data-reading]").forEach((figure) => read(figure, figure.dataset.reading));
  }

  // Changes what has changed and nothing else: what is focused, marked or unfolded stays so.
  function morph(part, now) {
    if (part.isEqualNode(now)) return;
    if (part.nodeType !== Node.ELEMENT_NODE) { part.data = now.data; return; }
    for (const name of ["class", "hidden"]) if (!now.hasAttribute(name)) part.removeAttribute(name);
    for (const { name, value } of now.attributes) part.setAttribute(name, value);
    const fresh = [...now.childNodes];
    fresh.forEach((node, place) => {
      const old = part.childNodes[place];
      if (!old) part.append(node);
      else if (old.nodeName === node.nodeName) morph(old, node);
      else old.replaceWith(node);
    });
    while (part.childNodes.length > fresh.length) part.lastChild.remove();
  }

  // The values of one bar, as the table below has them: for a mouse, a finger, and the arrow keys.
  function read(figure, place) {
    const rows = document.querySelectorAll("#values tbody tr"), heads = document.querySelectorAll("#values thead th");
    const bars = figure.querySelector(".bars"), last = rows.length - 1;
    place = Math.max(0, Math.min(last, Number(place)));
    const values = figure.dataset.columns.split(" ").map((n) => `${rows[place].cells[n].textContent || "no"} ${heads[n].textContent}`);
    const words = `${rows[place].cells[0].textContent}: ${values.join(", ")}`;
    figure.dataset.reading = place;
    figure.querySelector(".read").textContent = words;
    figure.querySelector(".cursor").style.left = `${(100 * (place + 0.5)) / rows.length}%`;
    for (const [name, value] of Object.entries({ valuemax: last, valuenow: place, valuetext: words })) bars.setAttribute(`aria-${name}`, value);
  }

  for (const figure of document.querySelectorAll("figure")) {
    const bars = figure.querySelector(".bars"), count = () => document.querySelectorAll("#values tbody tr").length;
    const at = (event) => read(figure, Math.floor(((event.clientX - bars.getBoundingClientRect().left) / bars.clientWidth) * count()));
    const leave = () => { if (document.activeElement !== bars) delete figure.dataset.reading; };
    for (const [name, value] of Object.entries({ role: "slider", tabindex: 0, "aria-label": figure.querySelector("figcaption").firstChild.data, "aria-valuemin": 0 })) bars.setAttribute(name, value);
    read(figure, count());
    leave();
    bars.addEventListener("pointermove", at);
    bars.addEventListener("pointerdown", at);
    bars.addEventListener("pointerleave", leave);
    bars.addEventListener("blur", () => delete figure.dataset.reading);
    bars.addEventListener("focus", () => read(figure, figure.dataset.reading ?? count()));
    bars.addEventListener("keydown", (event) => {
      const step = { ArrowLeft: -1, ArrowDown: -1, ArrowRight: 1, ArrowUp: 1, PageDown: -10, PageUp: 10, Home: -count(), End: count() }[event.key];
      if (!step) return;
      event.preventDefault();
      read(figure, Number(figure.dataset.reading) + step);
    });
  }

  // A command is marked when it has the focus, and copied by a click where browsers allow that (https, this machine).
  document.addEventListener("focusin", ({ target }) => target.matches(".run") && getSelection().selectAllChildren(target));
  document.addEventListener("click", async ({ target }) => {
    if (!target.matches(".run") || !navigator.clipboard) return;
    await navigator.clipboard.writeText(target.textContent);
    target.dataset.copied = "";
    setTimeout(() => delete target.dataset.copied, 2000);
  });

  function tell(problem) {
    if (lost.hidden === !problem) return;
    const since = document.getElementById("now").textContent;
    lost.hidden = !problem;
    lost.textContent = problem ? `${problem} What is shown is of ${since}.` : "";
    document.documentElement.classList.toggle("lost", Boolean(problem));
    if (problem) document.title = `No answer! ${name}`;
  }

  async function look() {
    // In a hidden tab too, if less often (browsers see to that): its icon must not be green for a service that is not.
    if (asking) return;
    asking = true;
    try {
      const answer = await fetch(location.origin + location.pathname, { cache: "no-store", signal: AbortSignal.timeout(PATIENCE) });
      if (!answer.ok) return tell(`The service answers ${answer.status}.`);
      const fresh = new DOMParser().parseFromString(await answer.text(), "text/html");
      // Another release, other parts (mock mode, no ledger): the whole page anew.
      if (shape(fresh) !== shape(document)) return location.reload();
      tell("");
      put(fresh);
    } catch {
      tell("The service does not answer.");
    } finally {
      asking = false;
    }
  }

  function shape(page) {
    const parts = [...page.querySelectorAll("main section, main .mock")].map((part) => part.id || "mock");
    return parts.join() + page.querySelector("style").textContent + page.querySelector("body > script").textContent;
  }

  setInterval(look, PAUSE);
  document.addEventListener("visibilitychange", look);
})();
