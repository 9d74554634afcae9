// Set the colours before the page is drawn, so that a dark page does not flash white. This is a plain script,
// because modules run only after the whole document is read.
(() => {
  const { dataset } = document.documentElement;
  let store = {};
  try {
    store = localStorage;
  } catch {
    /* the user forbids it */
  }
  if (store["ddim-theme"]) dataset.theme = store["ddim-theme"];
  document.addEventListener("DOMContentLoaded", () => {
    document.getElementById("theme").addEventListener("click", () => {
      const system = matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light";
      dataset.theme = (dataset.theme ?? system) === "dark" ? "light" : "dark";
      // With the theme of the system, the page follows the system again.
      if (dataset.theme === system) delete dataset.theme;
      store["ddim-theme"] = dataset.theme ?? "";
    });
  });
})();
