// Set the colours before the page is drawn, so that a dark page does not flash white. This is a plain script,
// because modules run only after the whole document is read.
(() => {
  const root = document.documentElement;
  const kept = () => {
    try {
      return localStorage.getItem("ddim-theme");
    } catch {
      return null;
    } // storage can be forbidden
  };
  const choose = (theme) => {
    if (theme === "light" || theme === "dark") root.dataset.theme = theme;
    else delete root.dataset.theme;
  };
  choose(kept());
  document.addEventListener("DOMContentLoaded", () => {
    document.getElementById("theme").addEventListener("click", () => {
      const system = matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light";
      const next = (root.dataset.theme ?? system) === "dark" ? "light" : "dark";
      // If the user chooses the system's theme, the stored choice is emptied: the page follows the system again.
      const entry = next === system ? "" : next;
      choose(entry);
      try {
        localStorage.setItem("ddim-theme", entry);
      } catch {
        /* the choice lasts as long as the page */
      }
    });
  });
})();
