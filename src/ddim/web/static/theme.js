// Set the colours before the page is drawn, so that a dark page does not flash white. This is a plain script,
// because modules run only after the whole document is read.
(() => {
  const { dataset } = document.documentElement;
  const set = (theme) => (["light", "dark"].includes(theme) ? (dataset.theme = theme) : delete dataset.theme);
  const store = (act) => {
    try {
      return act(localStorage);
    } catch {
      return null; // storage can be forbidden
    }
  };
  set(store((storage) => storage.getItem("ddim-theme")));
  document.addEventListener("DOMContentLoaded", () => {
    document.getElementById("theme").addEventListener("click", () => {
      const system = matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light";
      const next = (dataset.theme ?? system) === "dark" ? "light" : "dark";
      // With the theme of the system, the page follows the system again.
      const entry = next === system ? "" : next;
      set(entry);
      store((storage) => storage.setItem("ddim-theme", entry));
    });
  });
})();
