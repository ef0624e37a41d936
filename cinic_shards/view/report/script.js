"use strict";
// The image browser: filters with counts of all images, a grid, and a dialog.
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const FACETS = ["split", "class", "origin", "synset"];
  const NAMES = { split: data.splits, class: data.classes, origin: data.originTitles, synset: data.synsets };
  const PAGE = 192;
  const numImages = data.images.id.length;
  const numInDataset = data.cells.reduce((sum, cell) => sum + cell[4], 0);
  const grid = document.getElementById("grid");
  const status = document.getElementById("status");
  const more = document.getElementById("more");
  const dialog = document.getElementById("details");
  const selects = FACETS.map((facet) => document.getElementById(`filter-${facet}`));
  const counted = new Intl.NumberFormat("en-US");

  let matching = []; // numbers of the images that match the filters
  let current = 0; // position in `matching` of the image that has the focus or is in the dialog

  // The selected code of each facet, -1 for any.
  const wanted = () => selects.map((select) => (select && select.value !== "" ? Number(select.value) : -1));

  function isWanted(codes, wants, except) {
    return FACETS.every((_, i) => i === except || wants[i] < 0 || codes[i] === wants[i]);
  }

  // The number of the dataset's images for each option, with the other filters applied.
  function countOptions(wants, facet) {
    const counts = new Map();
    for (const cell of data.cells) {
      if (isWanted(cell, wants, facet)) {
        counts.set(cell[facet], (counts.get(cell[facet]) || 0) + cell[4]);
      }
    }
    return counts;
  }

  function fillSelect(select, facet, wants) {
    const counts = countOptions(wants, facet);
    const options = [];
    let total = 0;
    NAMES[FACETS[facet]].forEach((name, code) => {
      const count = counts.get(code) || 0;
      total += count;
      if (count > 0 || wants[facet] === code) {
        options.push(new Option(`${name || "none"} (${counted.format(count)})`, code, false, wants[facet] === code));
      }
    });
    select.replaceChildren(new Option(`any (${counted.format(total)})`, "", false, wants[facet] < 0), ...options);
  }

  function applyFilters() {
    const wants = wanted();
    selects.forEach((select, facet) => select && fillSelect(select, facet, wants));
    matching = [];
    for (let image = 0; image < numImages; image++) {
      if (isWanted(FACETS.map((facet) => data.images[facet][image]), wants, -1)) {
        matching.push(image);
      }
    }
    current = 0;
    grid.replaceChildren();
    showMore();
  }

  function showStatus() {
    let inDataset = 0;
    const wants = wanted();
    for (const cell of data.cells) {
      if (isWanted(cell, wants, -1)) {
        inDataset += cell[4];
      }
    }
    const [found, shown, inAll] = [matching.length, grid.children.length, inDataset].map(counted.format);
    const noun = matching.length === 1 ? "image" : "images";
    const inSample = numImages < numInDataset ? ` in the sample (${inAll} in the dataset)` : "";
    status.textContent = `Showing ${shown} of ${found} matching ${noun}${inSample}.`;
  }

  function showMore() {
    const start = grid.children.length;
    const items = matching.slice(start, start + PAGE).map((image) => {
      const button = document.createElement("button");
      button.type = "button";
      button.tabIndex = -1;
      button.setAttribute("aria-label", keyOf(image) + (data.images.isUnreadable[image] ? ", damaged" : ""));
      paint(button, image);
      const item = document.createElement("li");
      item.append(button);
      return item;
    });
    grid.append(...items);
    if (start === 0 && items.length > 0) {
      buttonAt(0).tabIndex = 0;
    }
    more.hidden = grid.children.length >= matching.length;
    showStatus();
  }

  function paint(element, image) {
    const tile = image % data.tilesPerSheet;
    element.className = `tile sheet-${Math.floor(image / data.tilesPerSheet)}`;
    element.style.setProperty("--x", tile % data.tilesPerRow);
    element.style.setProperty("--y", Math.floor(tile / data.tilesPerRow));
  }

  const buttonAt = (position) => grid.children[position].firstChild;

  const nameOf = (facet, image) => NAMES[facet][data.images[facet][image]];

  const keyOf = (image) => `${nameOf("split", image)}/${nameOf("class", image)}/${data.images.stem[image]}`;

  // Tab reaches one image of the grid; arrow keys move from there to the others.
  function moveTo(position, takesFocus) {
    if (matching.length === 0) {
      return;
    }
    const target = Math.max(0, Math.min(position, matching.length - 1));
    while (target >= grid.children.length) {
      showMore();
    }
    buttonAt(Math.min(current, grid.children.length - 1)).tabIndex = -1;
    current = target;
    const button = buttonAt(current);
    button.tabIndex = 0;
    if (takesFocus) {
      button.focus();
    }
  }

  function imagesPerRow() {
    const top = grid.children[0].offsetTop;
    let count = 1;
    while (count < grid.children.length && grid.children[count].offsetTop === top) {
      count++;
    }
    return count;
  }

  function provenanceOf(image) {
    const number = data.images.number[image];
    const origin = data.origins[data.images.origin[image]];
    if (origin === "imagenet") {
      return `ImageNet, synset ${nameOf("synset", image)}, image ${number}`;
    }
    if (origin.startsWith("cifar10-")) {
      return `CIFAR-10, ${origin.slice("cifar10-".length)} set, image ${number}`;
    }
    return "unknown: not in the file name";
  }

  function shownAs(image) {
    if (data.images.isUnreadable[image]) {
      return "nothing: the image is damaged";
    }
    return data.isExact ? "exact pixels, enlarged" : "at a reduced size";
  }

  function fillDialog() {
    const image = matching[current];
    document.getElementById("details-key").textContent = keyOf(image);
    paint(document.getElementById("details-picture"), image);
    const position = `Image ${counted.format(current + 1)} of ${counted.format(matching.length)}`;
    document.getElementById("details-position").textContent = position;
    const facts = [
      ["Split", nameOf("split", image)],
      ["Class", nameOf("class", image)],
      ["From", provenanceOf(image)],
      ["Id", counted.format(data.images.id[image])],
      ["Shown", shownAs(image)],
    ];
    const terms = facts.flatMap(([name, text]) => {
      const term = document.createElement("dt");
      const fact = document.createElement("dd");
      term.textContent = name;
      fact.textContent = text;
      return [term, fact];
    });
    document.getElementById("details-facts").replaceChildren(...terms);
    document.getElementById("previous").disabled = current === 0;
    document.getElementById("next").disabled = current === matching.length - 1;
  }

  function step(by) {
    moveTo(current + by, false);
    fillDialog();
  }

  const MOVES = {
    ArrowLeft: () => current - 1,
    ArrowRight: () => current + 1,
    ArrowUp: () => current - imagesPerRow(),
    ArrowDown: () => current + imagesPerRow(),
    Home: () => 0,
    End: () => grid.children.length - 1,
  };

  grid.addEventListener("keydown", (event) => {
    const move = MOVES[event.key];
    if (move && !event.altKey && !event.ctrlKey && !event.metaKey) {
      event.preventDefault();
      const position = move();
      if (position >= 0 && position < matching.length) {
        moveTo(position, true);
      }
    }
  });
  grid.addEventListener("click", (event) => {
    const item = event.target.closest("li");
    if (item) {
      moveTo([...grid.children].indexOf(item), false);
      fillDialog();
      dialog.showModal();
    }
  });
  dialog.addEventListener("keydown", (event) => {
    if (event.key === "ArrowLeft" || event.key === "ArrowRight") {
      event.preventDefault();
      step(event.key === "ArrowLeft" ? -1 : 1);
    }
  });
  dialog.addEventListener("click", (event) => {
    if (event.target === dialog) {
      dialog.close(); // a click outside the dialog
    }
  });
  dialog.addEventListener("close", () => moveTo(current, true));
  document.getElementById("previous").addEventListener("click", () => step(-1));
  document.getElementById("next").addEventListener("click", () => step(1));
  document.getElementById("close").addEventListener("click", () => dialog.close());
  more.addEventListener("click", () => {
    const first = grid.children.length;
    showMore();
    moveTo(first, true);
  });
  const form = document.querySelector(".filters");
  if (form) {
    form.addEventListener("change", applyFilters);
    form.addEventListener("submit", (event) => event.preventDefault());
    form.addEventListener("reset", () => {
      selects.forEach((select) => select && (select.value = ""));
      setTimeout(applyFilters); // after the form has reset its own values
    });
  }
  applyFilters();

  // Only tables that scroll are stops of the Tab key.
  const tables = new ResizeObserver((entries) => {
    for (const { target } of entries) {
      const scrolls = target.scrollWidth > target.clientWidth || target.scrollHeight > target.clientHeight;
      target.toggleAttribute("tabindex", scrolls);
      if (scrolls) {
        target.tabIndex = 0;
      }
    }
  });
  document.querySelectorAll(".table").forEach((table) => tables.observe(table));
})();
