// Requests to the server, and its notifications of changes.

/** Requests JSON; an error has the server's message. */
export async function ask(path, parameters = {}, signal = undefined) {
  const query = new URLSearchParams();
  for (const [name, value] of Object.entries(parameters)) {
    if (value !== null && value !== undefined) query.set(name, value);
  }
  const response = await fetch(`/api/${path}?${query}`, { signal });
  const answer = await response.json();
  if (!response.ok) throw new Error(answer.problem ?? response.statusText);
  return answer;
}

/**
 * Calls `onChange` with changes of runs, or of the list if no names are given, until the returned
 * function is called. While the page is hidden it disconnects: a browser has only a few connections
 * to one server.
 */
export function watch(names, onChange) {
  const query = names ? `?run=${encodeURIComponent(names.join("\n"))}` : "";
  let source = null;
  const open = () => {
    if (source || document.hidden) return;
    source = new EventSource(`/api/live${query}`);
    source.onopen = () => connection(true);
    source.onmessage = (event) => onChange(JSON.parse(event.data));
    source.onerror = () => connection(false);
  };
  const close = () => {
    source?.close();
    source = null;
  };
  const changed = () => (document.hidden ? close() : open());
  document.addEventListener("visibilitychange", changed);
  open();
  return () => {
    document.removeEventListener("visibilitychange", changed);
    close();
  };
}

function connection(works) {
  const place = document.getElementById("connection");
  place.textContent = works ? "" : "The server is gone; restart it and this page reconnects.";
}

/**
 * Wraps `work` so that calls never overlap, and pauses between them grow with the time they take.
 */
export function throttled(work, pause = 300) {
  let running = false;
  let again = false;
  let stopped = false;
  const run = async () => {
    if (stopped) return;
    if (running) {
      again = true;
      return;
    }
    running = true;
    again = false;
    const started = performance.now();
    try {
      await work();
    } finally {
      const took = performance.now() - started;
      setTimeout(() => {
        running = false;
        if (again) run();
      }, Math.max(pause, 2 * took));
    }
  };
  run.stop = () => {
    stopped = true;
  };
  return run;
}

/** The address of a run's page, or of one of its steps. */
export function runAddress(name, step = null) {
  const base = `#/run/${encodeURIComponent(name)}`;
  return step === null ? base : `${base}/step/${step}`;
}

/** The address of the page that compares runs. */
export function compareAddress(names) {
  return `#/compare/${names.map(encodeURIComponent).join("/")}`;
}
