// Asks for the page again and puts the parts that changed in place. Without it the page reloads itself by a meta element.
"use strict";
(() => {
  const PAUSE = 3000, PATIENCE = 10000;
  const lost = document.getElementById("lost"), name = document.querySelector("h1").textContent;
  let asking = false;

  function put(fresh) {
    for (const part of document.querySelectorAll("[data-live]")) {
      const now = fresh.getElementById(part.id);
      if (now && part.isEqualNode(now)) continue;
      if (!now) { part.replaceChildren(); continue; }
      for (const { name, value } of now.attributes) part.setAttribute(name, value);
      part.replaceChildren(...now.childNodes);
    }
    document.title = fresh.title;
    document.querySelector("link[rel=icon]").href = fresh.querySelector("link[rel=icon]").href;
  }

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
    const parts = [...page.querySelectorAll("main > [id], main > .mock")].map((part) => part.id || "mock");
    return parts.join() + page.querySelector("style").textContent + page.querySelector("body > script").textContent;
  }

  setInterval(look, PAUSE);
  document.addEventListener("visibilitychange", look);
})();
