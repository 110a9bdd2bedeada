/* Maximum number of search results; delay from a key to the search, milliseconds. */
const FOUND = 50;
const SEARCH_DELAY = 120;

/* The search field and the list of results. */
class Search {
  constructor(store, open) {
    this.store = store;
    this.open = open;
    this.found = [];
    const on = (selector, event, action) => $(selector).addEventListener(event, action);
    on("#search", "input", (event) => this.later(event.target.value));
    on("#search", "focus", (event) => event.target.value && this.find(event.target.value));
    on("#search", "keydown", (event) => this.key(event));
    document.addEventListener("pointerdown", (event) => event.target.closest(".search") || this.unfold(false));
    on(
      ".search",
      "focusout",
      (event) =>
        event.currentTarget.contains(event.relatedTarget) || event.relatedTarget === null || this.unfold(false),
    );
  }

  later(text) {
    clearTimeout(this.waiting);
    this.waiting = setTimeout(() => this.find(text), SEARCH_DELAY);
  }

  find(text) {
    this.searched = text;
    const found = text.trim() ? this.store.search(text) : [];
    this.found = found.slice(0, FOUND);
    $("#found").replaceChildren(...this.found.map((node, place) => this.option(node, place)));
    const rest = found.length > FOUND ? `, the first ${FOUND} of them here` : "";
    $("#count").textContent = found.length ? `${number(found.length)} found${rest}` : "Nothing found";
    this.pick(found.length ? 0 : -1);
    this.unfold(Boolean(text.trim()));
  }

  option(node, place) {
    const { title, note } = wordsFor(node);
    const more = {
      run: note,
      execution: `execution ${node.id} · ${note} · ${node.home?.id}`,
      artifact: `artifact ${node.id} · ${node.type} · ${node.uri}`,
    };
    const option = make(
      "li",
      { id: `found-${place}`, role: "option" },
      title,
      make("span", { className: "beside" }, more[node.kind]),
    );
    option.addEventListener("click", () => this.take(place));
    return option;
  }

  unfold(open) {
    $(".found").hidden = !open;
    $("#search").setAttribute("aria-expanded", open);
  }

  pick(place) {
    this.picked = place;
    [...$("#found").children].forEach((option, number) => option.setAttribute("aria-selected", number === place));
    const option = $("#found").children[place];
    option?.scrollIntoView({ block: "nearest" });
    option
      ? $("#search").setAttribute("aria-activedescendant", option.id)
      : $("#search").removeAttribute("aria-activedescendant");
  }

  take(place) {
    const node = this.found[place];
    if (node) {
      this.unfold(false);
      this.open(node);
    }
  }

  key(event) {
    const count = this.found.length;
    const actions = {
      ArrowDown: () => count && this.pick((this.picked + 1) % count),
      ArrowUp: () => count && this.pick((this.picked + count - 1) % count),
      Enter: () => {
        clearTimeout(this.waiting);
        // A text that is confirmed within the delay has not been searched for yet.
        if (this.searched !== $("#search").value) {
          this.find($("#search").value);
        }
        this.take(this.picked);
      },
      Escape: () => this.unfold(false),
    };
    if (actions[event.key]) {
      event.preventDefault();
      event.stopPropagation();
      actions[event.key]();
    }
  }
}
