(() => {
  const root = document.documentElement;
  const title = document.querySelector("title");
  const titles = { en: title.textContent, zh: title.dataset.zh };
  // What style.css shows follows from the checked inputs alone; this tells it to those who listen, and sets the start.
  const apply = () => {
    const language = document.getElementById("language-zh").checked ? "zh" : "en";
    root.lang = language === "zh" ? "zh-Hans" : "en";
    document.title = titles[language];
    for (const word of document.querySelectorAll(`svg > :is(title, desc):lang(${language})`)) {
      word.parentNode.prepend(word); // a browser takes the first one
    }
  };
  const known = navigator.languages.map((tag) => tag.slice(0, 2).toLowerCase()).find((tag) => tag in titles);
  if (known === "zh") document.getElementById("language-zh").checked = true;
  addEventListener("change", apply);
  addEventListener("pageshow", apply);
  apply();
})();
