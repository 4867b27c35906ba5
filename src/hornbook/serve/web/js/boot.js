// Before anything is drawn: the theme and the language, so that nothing flashes. A classic script, because modules wait.
(function () {
  const root = document.documentElement;
  const read = (key) => {
    try {
      return localStorage.getItem(`hornbook.${key}`);
    } catch {
      return null; // storage is switched off: the page works, and forgets
    }
  };
  const dark = matchMedia("(prefers-color-scheme: dark)").matches;
  const theme = read("theme");
  root.dataset.theme = theme === "light" || theme === "dark" ? theme : dark ? "dark" : "light";
  const language = read("language") || navigator.language || "en";
  root.lang = language.toLowerCase().startsWith("zh") ? "zh-CN" : "en";
})();
