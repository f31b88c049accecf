// <overnet-compare before after width height>: two images of one picture, parted by an edge that is moved; zoom and pan.
const STYLE = `
:host { display: block; color: var(--body-text-color); font: inherit; }
.stage { --at: 50%; position: relative; overflow: hidden; border-radius: 10px; cursor: grab; user-select: none;
  background: repeating-conic-gradient(var(--background-fill-secondary) 0 25%, var(--background-fill-primary) 0 50%) 0 0 / 20px 20px;
  touch-action: pan-y; border: 1px solid var(--border-color-primary); box-sizing: border-box; }
.stage.zoomed { touch-action: none; }
.stage:focus-visible, button:focus-visible, input:focus-visible { outline: 2px solid var(--color-accent); outline-offset: 2px; }
.half { position: absolute; inset: 0; pointer-events: none; }
.half.left { clip-path: inset(0 calc(100% - var(--at)) 0 0); }
.half.right { clip-path: inset(0 0 0 var(--at)); }
.single .half.left { clip-path: none; }
.single .half.right, .single .edge, .single .side, .single ~ input { display: none; }
img { position: absolute; left: 0; top: 0; transform-origin: 0 0; max-width: none; }
.pixels img { image-rendering: pixelated; }
.edge { position: absolute; top: 0; bottom: 0; left: var(--at); width: 2px; margin-left: -1px; background: #fff;
  box-shadow: 0 0 5px rgb(0 0 0 / 65%); cursor: ew-resize; }
.edge::before { content: ""; position: absolute; inset: 0 -16px; }
.edge::after { content: "\\2194"; position: absolute; top: 50%; left: 50%; width: 36px; height: 36px; border-radius: 50%;
  transform: translate(-50%, -50%); background: #fff; color: #1f2937; text-align: center; line-height: 34px;
  box-shadow: 0 1px 5px rgb(0 0 0 / 50%); }
.side { position: absolute; top: 10px; padding: 2px 9px; border-radius: 6px; background: rgb(15 18 21 / 75%);
  color: #fff; font-size: 13px; pointer-events: none; }
.side.left { left: 10px; } .side.right { right: 10px; }
.bar { display: flex; flex-wrap: wrap; gap: 6px; align-items: center; margin-top: 8px; font-size: 13px; }
.bar span { margin-left: auto; color: var(--body-text-color-subdued); font-variant-numeric: tabular-nums; }
button { padding: 5px 10px; border: 1px solid var(--border-color-primary); border-radius: 7px; cursor: pointer;
  background: var(--background-fill-primary); color: inherit; font: inherit; }
button:hover { border-color: var(--color-accent); }
button[aria-pressed=true] { background: var(--color-accent); border-color: var(--color-accent); color: #fff; }
input { display: block; width: 100%; margin: 8px 0 0; accent-color: var(--color-accent); box-sizing: border-box; }
`;
const ZOOMS = [["Fit", 0], ["100 %", 1], ["200 %", 2], ["400 %", 4], ["800 %", 8]];

class Compare extends HTMLElement {
  static observedAttributes = ["before", "after"];

  // Gradio changes the attributes of the element that is there, one after the other.
  attributeChangedCallback() {
    if (!this.isConnected || this.is_outdated) return;
    this.is_outdated = true;
    queueMicrotask(() => {
      this.is_outdated = false;
      this.build();
    });
  }

  connectedCallback() {
    this.observer = new ResizeObserver(() => this.draw());
    this.observer.observe(this);
    this.build();
  }

  build() {
    const part = (parent, name, properties = {}) => parent.appendChild(Object.assign(document.createElement(name), properties));
    const root = this.shadowRoot || this.attachShadow({ mode: "open" });
    root.replaceChildren();
    part(root, "style", { textContent: STYLE });
    this.stage = part(root, "div", { className: "stage", tabIndex: 0 });
    this.stage.setAttribute("role", "group");
    this.stage.setAttribute("aria-label", "Before and after; plus and minus zoom, arrow keys move the edge");
    const after = this.getAttribute("after");
    this.stage.classList.toggle("single", !after);
    this.images = [["left", "before", "Before"], ["right", after ? "after" : "", "After"]].map(([side, name, alt]) => {
      const half = part(this.stage, "div", { className: `half ${side}` });
      return name && part(half, "img", { src: this.getAttribute(name), alt, draggable: false });
    }).filter(Boolean);
    part(this.stage, "div", { className: "edge" });
    part(this.stage, "div", { className: "side left", textContent: "before" });
    part(this.stage, "div", { className: "side right", textContent: "after" });
    this.range = part(root, "input", { type: "range", min: 0, max: 100, step: 0.1, value: 50 });
    this.range.setAttribute("aria-label", "Edge between before and after, in percent");
    this.range.oninput = () => this.draw();
    const bar = part(root, "div", { className: "bar" });
    this.buttons = ZOOMS.map(([text, zoom]) => part(bar, "button", {
      type: "button", textContent: text, onclick: () => this.zoomTo(zoom / devicePixelRatio),
    }));
    this.smooth = part(bar, "button", { type: "button", textContent: "Smooth", title: "Interpolate between pixels" });
    this.smooth.setAttribute("aria-pressed", "false");
    this.smooth.onclick = () => {
      this.smooth.setAttribute("aria-pressed", String(this.smooth.getAttribute("aria-pressed") !== "true"));
      this.draw();
    };
    this.label = part(bar, "span");
    [this.w, this.h] = ["width", "height"].map((name) => Number(this.getAttribute(name)));
    // What is shown is turned as its file says, which the stated size does not know of.
    const last = this.images[this.images.length - 1];
    last.onload = () => {
      [this.w, this.h] = [last.naturalWidth, last.naturalHeight];
      this.zoomTo(0);
    };
    this.pointers = new Map();
    this.stage.onpointerdown = (event) => this.down(event);
    this.stage.onpointermove = (event) => this.moved(event);
    this.stage.onpointerup = this.stage.onpointercancel = (event) => this.pointers.delete(event.pointerId);
    this.stage.ondblclick = (event) => this.zoomTo(this.zoom ? 0 : 2 / devicePixelRatio, event);
    this.stage.onkeydown = (event) => this.key(event);
    this.stage.addEventListener("wheel", (event) => {
      event.preventDefault();
      this.zoomTo(this.scale * Math.exp(-event.deltaY / 300), event);
    }, { passive: false });
    this.zoom = this.x = this.y = 0;
    this.draw();
  }

  disconnectedCallback() { this.observer?.disconnect(); }

  get fit() { return Math.min(this.stage.clientWidth / this.w, this.stage.clientHeight / this.h); }

  get scale() { return this.zoom || this.fit; }

  // Zoom so that what is under the pointer, or in the middle, stays; 0 fits the image into the stage.
  zoomTo(zoom, event) {
    const box = this.stage.getBoundingClientRect();
    const [px, py] = event ? [event.clientX - box.left, event.clientY - box.top] : [box.width / 2, box.height / 2];
    const old = this.scale;
    this.zoom = zoom <= this.fit && event ? 0 : Math.min(zoom, 64);
    const ratio = this.scale / old;
    [this.x, this.y] = [px - (px - this.x) * ratio, py - (py - this.y) * ratio];
    this.draw();
  }

  down(event) {
    const box = this.stage.getBoundingClientRect();
    const edge = box.left + box.width * this.range.value / 100;
    this.moves_edge = !this.stage.classList.contains("single") && (!this.zoom || Math.abs(event.clientX - edge) < 20);
    this.stage.setPointerCapture(event.pointerId);
    this.pointers.set(event.pointerId, [event.clientX, event.clientY]);
    if (this.moves_edge) this.moved(event);
  }

  moved(event) {
    const before = this.pointers.get(event.pointerId);
    if (!before) return;
    const others = [...this.pointers].filter(([id]) => id !== event.pointerId).map(([, at]) => at);
    this.pointers.set(event.pointerId, [event.clientX, event.clientY]);
    if (others.length) {
      const far = ([x, y]) => Math.hypot(x - others[0][0], y - others[0][1]) || 1;
      const middle = { clientX: (event.clientX + others[0][0]) / 2, clientY: (event.clientY + others[0][1]) / 2 };
      this.zoomTo(this.scale * far([event.clientX, event.clientY]) / far(before), middle);
    } else if (this.moves_edge) {
      const box = this.stage.getBoundingClientRect();
      this.range.value = (event.clientX - box.left) / box.width * 100;
      this.draw();
    } else if (this.zoom) {
      this.x += event.clientX - before[0];
      this.y += event.clientY - before[1];
      this.draw();
    }
  }

  key(event) {
    const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    const zoom = { "+": 1.25, "=": 1.25, "-": 0.8 }[event.key];
    if (step) this.range.value = Number(this.range.value) + step;
    else if (zoom) this.zoomTo(this.scale * zoom);
    else if (event.key === "0") this.zoomTo(0);
    else return;
    event.preventDefault();
    this.draw();
  }

  draw() {
    const width = this.clientWidth;
    if (!width || !this.w) return;
    // A tall image is fitted into the window's height.
    this.stage.style.height = `${Math.max(160, Math.min(width * this.h / this.w, innerHeight * 0.72))}px`;
    const [w, h] = [this.stage.clientWidth, this.stage.clientHeight];
    const place = (at, size, room) => size <= room ? (room - size) / 2 : Math.min(0, Math.max(room - size, at));
    // On whole pixels of the screen, or else some of the image's would be wider than others.
    const whole = (at) => Math.round(at * devicePixelRatio) / devicePixelRatio;
    this.x = whole(place(this.x, this.w * this.scale, w));
    this.y = whole(place(this.y, this.h * this.scale, h));
    for (const image of this.images) {
      image.style.width = `${this.w}px`;
      image.style.height = `${this.h}px`;
      image.style.transform = `translate(${this.x}px, ${this.y}px) scale(${this.scale})`;
    }
    const zoom = this.scale * devicePixelRatio;
    this.stage.style.setProperty("--at", `${this.range.value}%`);
    this.stage.classList.toggle("zoomed", this.zoom > 0);
    this.stage.classList.toggle("pixels", zoom >= 1.99 && this.smooth.getAttribute("aria-pressed") !== "true");
    this.buttons.forEach((button, index) => {
      const wanted = ZOOMS[index][1];
      button.setAttribute("aria-pressed", String(wanted ? this.zoom > 0 && Math.abs(zoom - wanted) < 0.01 : !this.zoom));
    });
    this.label.textContent = `${this.w}x${this.h} at ${Math.round(zoom * 100)} %`;
  }
}
customElements.define("overnet-compare", Compare);
