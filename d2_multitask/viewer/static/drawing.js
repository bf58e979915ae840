/** Drawing results on a canvas. Colours are those of d2_multitask's pictures. */

import { classesOf } from "./network.js";

const SMALLEST_LONG_SIDE = 640; // smaller images are enlarged before drawing, to be readable

const palette = (text) => text.split(" ").map((hex) => `#${hex}`);
export const OBJECT_COLORS = palette(
  "ff5c5c 5aebff ffd740 69f0ae ea6cff ff961e baff5c ff8cb4 28e1dc c8a5ff ffb291",
);
// Semantic classes, counted without the background.
export const CLASS_COLORS = palette(
  "008cff ff783c 5ad25a dc5adc f0c828 786eff 00c8aa eb506e a0825a 96c8ff",
);

export const objectColor = (index) => OBJECT_COLORS[index % OBJECT_COLORS.length];

/** The colour of class `id` of a map; `null` for a background, which is left uncoloured. */
function classColor(id, classNames) {
  const first = !classNames || classNames[0] === "background" ? 1 : 0;
  return id < first ? null : CLASS_COLORS[(id - first) % CLASS_COLORS.length];
}

/** The objects that score at least `threshold`. */
export const confident = (objects, threshold) => objects.filter((one) => one.score >= threshold);

/** "person 98 %". */
export const describe = ({ classId, score }, info) =>
  `${info.objects.class_names[classId] ?? classId} ${Math.round(score * 100)} %`;

/** A canvas with the classes of one map in colour, at the image's size. */
function mapPicture(classes, classNames, [height, width]) {
  const canvas = new OffscreenCanvas(width, height);
  const picture = new ImageData(width, height);
  const pixels = new DataView(picture.data.buffer);
  const colors = Array.from({ length: 256 }, (_, id) => {
    const color = classColor(id, classNames);
    return color ? parseInt(`${color.slice(1)}ff`, 16) : 0; // RGBA
  });
  for (let i = 0; i < classes.length; i++) pixels.setUint32(i * 4, colors[classes[i]]);
  canvas.getContext("2d").putImageData(picture, 0, 0);
  return canvas;
}

/**
 * The classes of a map and their picture, kept on the result until the threshold changes.
 *
 * Returns `{threshold, classes, picture}`.
 */
export function preparedMap(result, name, info, threshold) {
  result.prepared ??= {};
  if (result.prepared[name]?.threshold !== threshold) {
    const { size, imageSize } = result;
    const names = info.maps[name]?.class_names;
    const output = info.outputs[name];
    const map = result.maps[name];
    const classes = classesOf(map, output, names ?? [], threshold, size, imageSize);
    const picture = mapPicture(classes, names, imageSize);
    result.prepared[name] = { threshold, classes, picture };
  }
  return result.prepared[name];
}

/** The coloured classes of a map's pixels: `[{id, label, color, pixels: their number}]`. */
export function classesIn(classes, name, info) {
  const names = info.maps[name]?.class_names;
  const isLogits = info.outputs[name].kind === "logits";
  const counts = new Array(256).fill(0);
  for (const id of classes) counts[id]++;
  return counts.flatMap((pixels, id) => {
    const color = pixels ? classColor(id, names) : null;
    const label = names?.[id] ?? (isLogits ? `${name} ${id}` : name);
    return color ? [{ id, label, color, pixels }] : [];
  });
}

function drawTag(context, text, [x, y], color, size) {
  context.font = `600 ${size}px system-ui, sans-serif`;
  const width = context.measureText(text).width + size * 0.7;
  const height = size * 1.4;
  const left = Math.max(Math.min(x, context.canvas.width - width), 0);
  const top = y >= height ? y - height : y;
  context.fillStyle = color;
  context.fillRect(left, top, width, height);
  context.fillStyle = "#14141a";
  context.textBaseline = "middle";
  context.fillText(text, left + size * 0.35, top + height * 0.53);
}

function drawSkeleton(context, { keypoints }, skeleton, threshold, color, line, zoom) {
  const shown = keypoints.map(([x, y, sure]) => sure >= threshold && [x * zoom, y * zoom]);
  const limbs = skeleton.filter(([a, b]) => shown[a] && shown[b]);
  // A dark line under the coloured one: seen on any ground.
  for (const [style, width] of [["rgb(20 20 26 / 60%)", line * 2], [color, line]]) {
    context.strokeStyle = context.fillStyle = style;
    context.lineWidth = width;
    context.beginPath();
    for (const [a, b] of limbs) {
      context.moveTo(...shown[a]);
      context.lineTo(...shown[b]);
    }
    context.stroke();
    for (const point of shown.filter(Boolean)) {
      context.beginPath();
      context.arc(...point, width * 1.1, 0, 2 * Math.PI);
      context.fill();
    }
  }
}

/**
 * Draw an image and what was found in it; the canvas gets the image's size, or more.
 *
 * `view`: thresholds `confidence`, `keypoint`, `mask`, the maps' `opacity`, and `shown`, a set of
 * "boxes", "keypoints" and names of maps.
 */
export function draw(canvas, image, result, info, view) {
  const [height, width] = result.imageSize;
  const zoom = Math.max(SMALLEST_LONG_SIDE / Math.max(height, width), 1);
  canvas.width = Math.round(width * zoom);
  canvas.height = Math.round(height * zoom);
  const context = canvas.getContext("2d");
  context.imageSmoothingQuality = "high";
  context.drawImage(image, 0, 0, canvas.width, canvas.height);
  context.globalAlpha = view.opacity;
  for (const name of Object.keys(result.maps).filter((one) => view.shown.has(one))) {
    const { picture } = preparedMap(result, name, info, view.mask);
    context.drawImage(picture, 0, 0, canvas.width, canvas.height);
  }
  context.globalAlpha = 1;
  const line = Math.max(Math.sqrt(canvas.width * canvas.height) / 256, 1.2);
  const chosen = confident(result.objects, view.confidence);
  context.lineJoin = context.lineCap = "round";
  chosen.forEach(({ box }, index) => {
    if (!view.shown.has("boxes")) return;
    const [x0, y0, x1, y1] = box.map((value) => value * zoom);
    context.strokeStyle = objectColor(index);
    context.lineWidth = line;
    context.strokeRect(x0, y0, x1 - x0, y1 - y0);
  });
  chosen.forEach((one, index) => {
    if (!view.shown.has("keypoints")) return;
    const { skeleton } = info.objects;
    drawSkeleton(context, one, skeleton, view.keypoint, objectColor(index), line, zoom);
  });
  if (!view.shown.has("boxes") && !view.shown.has("keypoints")) return;
  chosen.forEach((one, index) => {
    const corner = one.box.slice(0, 2).map((value) => value * zoom);
    drawTag(context, describe(one, info), corner, objectColor(index), Math.max(line * 6, 12));
  });
}
