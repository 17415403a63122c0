"use strict";

/* The slider of an image: the left version is clipped at the thumb. */
function follow(stage) {
  const input = stage.querySelector("input");
  const label = (side) => (stage.querySelector("img." + side) || stage).dataset.label || "";
  const move = () => {
    stage.style.setProperty("--x", input.value + "%");
    input.setAttribute("aria-valuetext", input.value + " % " + label("left") + ", the rest " + label("right"));
  };
  input.addEventListener("input", move);
  stage.addEventListener("versions", move);
}

/* The two versions that a gallery shows. */
function choose(gallery) {
  const selects = [...gallery.querySelectorAll("select")];
  const show = () => {
    for (const stage of gallery.querySelectorAll(".stage")) {
      for (const image of stage.querySelectorAll("img")) {
        const sides = selects.filter((select) => select.value === image.dataset.layer);
        image.className = sides.length ? sides[sides.length - 1].dataset.side : "";
        image.hidden = !sides.length;
      }
      for (const select of selects) {
        stage.querySelector(".tag-" + select.dataset.side).textContent = select.selectedOptions[0].textContent;
      }
      stage.dispatchEvent(new Event("versions"));
    }
  };
  for (const select of selects) select.addEventListener("change", show);
  show();
}

/* The values of a plot's curves at the pointer; a point is [x in px, x, y], the last two as text. */
function read(svg) {
  const lines = JSON.parse(svg.dataset.readings);
  const names = [...svg.parentElement.querySelectorAll(".reading .name")];
  const cursor = svg.querySelector(".cursor");
  const nearest = (points, x) => points.reduce((a, b) => (Math.abs(b[0] - x) < Math.abs(a[0] - x) ? b : a));
  const write = (x) => {
    lines.forEach((line, i) => {
      const point = x === null ? line.points[line.points.length - 1] : nearest(line.points, x);
      names[i].lastChild.textContent = x === null ? line.legend : line.name + " " + point[2] + " at " + point[1];
    });
  };
  svg.addEventListener("pointermove", (event) => {
    const box = svg.getBoundingClientRect();
    const x = ((event.clientX - box.left) / box.width) * svg.viewBox.baseVal.width;
    const at = nearest(lines[0].points, x)[0];
    cursor.setAttribute("x1", at);
    cursor.setAttribute("x2", at);
    cursor.removeAttribute("hidden");
    write(at);
  });
  svg.addEventListener("pointerleave", () => {
    cursor.setAttribute("hidden", "");
    write(null);
  });
}

document.querySelectorAll(".stage").forEach(follow);
document.querySelectorAll("[data-gallery]").forEach(choose);
document.querySelectorAll("svg[data-readings]").forEach(read);
