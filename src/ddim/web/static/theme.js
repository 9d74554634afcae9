// Sets the colours before the page is drawn, so that a dark page does not flash white. It is a plain script,
// because modules run only after the document was read.
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
      // The choice of the system needs no entry, so that the page follows it again.
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
