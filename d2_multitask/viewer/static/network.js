/**
 * The network side of the page: pixels -> network input -> outputs -> results in image pixels.
 *
 * Nothing here touches the document. The numbers are those of Python: Pillow's resizing to the last
 * bit, Detectron2's post-processing, d2_multitask.heads.dense.resize_maps. `info` is the JSON that
 * the exported file carries. Sizes are [height, width]; coordinates are continuous pixels.
 */

// Pillow's Resample.c: weights are integers with so many bits behind the point.
const PRECISION_BITS = 22;
const HALF = 1 << (PRECISION_BITS - 1);

// Pillow's filters: [support in source pixels, weight at a distance >= 0].
const BILINEAR = [1, (x) => (x < 1 ? 1 - x : 0)];
const cubic = (x) => (x < 1 ? (1.5 * x - 2.5) * x * x + 1 : (((x - 5) * x + 8) * x - 4) * -0.5);
const BICUBIC = [2, (x) => (x < 2 ? cubic(x) : 0)];

/** The network input's size before padding: Detectron2's ResizeShortestEdge, or a fixed one. */
export function resizedSize(input, [height, width]) {
  if (input.resize === "stretch") return input.size;
  if (!input.min_size) return [height, width];
  const scale = input.min_size / Math.min(height, width);
  let sides =
    height < width ? [input.min_size, scale * width] : [scale * height, input.min_size];
  const longest = Math.max(...sides);
  if (longest > input.max_size) sides = sides.map((side) => side * (input.max_size / longest));
  return sides.map((side) => Math.max(Math.floor(side + 0.5), 1));
}

/** Integer weights of the source pixels, for each of `length` target pixels on one axis. */
function pillowWeights(sourceLength, length, [support, filter]) {
  const scale = sourceLength / length;
  const stretch = Math.max(scale, 1);
  const reach = support * stretch;
  const most = Math.ceil(reach) * 2 + 1;
  const first = new Int32Array(length);
  const count = new Int32Array(length);
  const weights = new Int32Array(length * most);
  for (let i = 0; i < length; i++) {
    const center = (i + 0.5) * scale;
    first[i] = Math.max(Math.trunc(center - reach + 0.5), 0);
    count[i] = Math.min(Math.trunc(center + reach + 0.5), sourceLength) - first[i];
    const exact = [];
    let sum = 0;
    for (let k = 0; k < count[i]; k++) {
      exact.push(filter(Math.abs((k + first[i] - center + 0.5) * (1 / stretch))));
      sum += exact[k];
    }
    exact.forEach((weight, k) => {
      const scaled = (sum === 0 ? weight : weight / sum) * 2 ** PRECISION_BITS;
      weights[i * most + k] = Math.trunc(scaled + (scaled < 0 ? -0.5 : 0.5));
    });
  }
  return { first, count, weights, most };
}

/** One pass of Pillow's resizing, along the rows or along the columns; RGBA, alpha is left 0. */
function resizeAxis(source, [height, width], [newHeight, newWidth], filter) {
  const rows = newWidth === width;
  const { first, count, weights, most } = rows
    ? pillowWeights(height, newHeight, filter)
    : pillowWeights(width, newWidth, filter);
  const step = rows ? width * 4 : 4;
  const target = new Uint8ClampedArray(newHeight * newWidth * 4);
  for (let y = 0, to = 0; y < newHeight; y++) {
    for (let x = 0; x < newWidth; x++, to += 4) {
      const i = rows ? y : x;
      let from = (rows ? first[i] * width + x : y * width + first[i]) * 4;
      let [red, green, blue] = [HALF, HALF, HALF];
      for (let k = i * most; k < i * most + count[i]; k++, from += step) {
        red += source[from] * weights[k];
        green += source[from + 1] * weights[k];
        blue += source[from + 2] * weights[k];
      }
      target[to] = red >> PRECISION_BITS; // the array clips to 0..255, as Pillow
      target[to + 1] = green >> PRECISION_BITS;
      target[to + 2] = blue >> PRECISION_BITS;
    }
  }
  return target;
}

/** Pillow's Image.resize on RGBA bytes: columns first, 8 bits between the passes. */
export function resizePixels(pixels, [height, width], [newHeight, newWidth], filter = BILINEAR) {
  if (newWidth !== width) {
    pixels = resizeAxis(pixels, [height, width], [height, newWidth], filter);
  }
  if (newHeight === height) return pixels;
  return resizeAxis(pixels, [height, newWidth], [newHeight, newWidth], filter);
}

/**
 * RGBA bytes of an image -> what the network reads.
 *
 * Returns `data`, (1, ...padded, 3) bytes in the network's channel order, 0 in the padding at the
 * right and bottom; `size` before and `padded` after padding.
 */
export function networkInput(pixels, imageSize, input) {
  const size = resizedSize(input, imageSize);
  const filter = input.resize === "stretch" ? BICUBIC : BILINEAR;
  const resized = resizePixels(pixels, imageSize, size, filter);
  if (input.square && Math.max(...size) > input.square) {
    throw new Error(
      `the image becomes ${size[1]}x${size[0]} pixels, the network takes ${input.square} at most`,
    );
  }
  const padded = size.map(
    (side) => Math.ceil(Math.max(side, input.square) / input.divisor) * input.divisor,
  );
  const data = new Uint8Array(padded[0] * padded[1] * 3);
  const [red, blue] = input.format === "RGB" ? [0, 2] : [2, 0];
  for (let y = 0, from = 0; y < size[0]; y++) {
    for (let x = 0, to = y * padded[1] * 3; x < size[1]; x++, from += 4, to += 3) {
      data[to + red] = resized[from];
      data[to + 1] = resized[from + 1];
      data[to + blue] = resized[from + 2];
    }
  }
  return { data, size, padded };
}

function intersectionOverUnion(a, b) {
  const width = Math.min(a[2], b[2]) - Math.max(a[0], b[0]);
  const height = Math.min(a[3], b[3]) - Math.max(a[1], b[1]);
  const shared = Math.max(width, 0) * Math.max(height, 0);
  const area = (box) => (box[2] - box[0]) * (box[3] - box[1]);
  return shared / (area(a) + area(b) - shared);
}

/**
 * The objects of one image, best first: `{score, classId, box: [x0, y0, x1, y1], keypoints:
 * [[x, y, confidence], ...]}`.
 *
 * `outputs`: name -> `{data, dims}`, of a batch of one; `objects`: that part of `info`; `size` of
 * the network input before padding.
 */
export function findObjects(outputs, objects, size, imageSize) {
  const { scores, classes, boxes, keypoints } = outputs;
  const points = objects.keypoint_names.length;
  let found = [];
  for (let i = 0; i < scores.data.length; i++) {
    if (!(scores.data[i] > objects.score_threshold)) continue;
    const all = keypoints?.data.subarray(i * points * 3, (i + 1) * points * 3) ?? [];
    found.push({
      score: scores.data[i],
      classId: classes.data[i],
      box: Array.from(boxes.data.subarray(i * 4, i * 4 + 4)),
      keypoints: Array.from({ length: all.length / 3 }, (_, k) => [
        ...all.subarray(k * 3, k * 3 + 3),
      ]),
    });
  }
  found.sort((a, b) => b.score - a.score);
  if (objects.nms_threshold > 0) {
    const kept = [];
    for (const one of found) {
      const covers = (better) =>
        better.classId === one.classId &&
        intersectionOverUnion(better.box, one.box) > objects.nms_threshold;
      if (!kept.some(covers)) kept.push(one);
    }
    found = kept;
  }
  const scale = [imageSize[1] / size[1], imageSize[0] / size[0]];
  const clip = (value, axis) =>
    Math.min(Math.max(value * scale[axis], 0), imageSize[1 - axis]);
  for (const one of found) {
    one.box = one.box.map((value, k) => clip(value, k % 2));
    one.keypoints = one.keypoints.map(([x, y, sure]) => [x * scale[0], y * scale[1], sure]);
  }
  return found.filter(({ box }) => box[2] > box[0] && box[3] > box[1]);
}

/** Bilinear neighbours of a pixel as PyTorch finds them: [lower, upper, share of the upper one]. */
function neighbours(index, scale, length) {
  const at = Math.max((index + 0.5) * scale - 0.5, 0);
  const lower = Math.min(Math.floor(at), length - 1);
  return [lower, Math.min(lower + 1, length - 1), at - lower];
}

/**
 * For each of `length` image pixels on one axis, the first cell and the weights of three cells.
 *
 * `whole`: the network input ends between cells; else inside of one, and the map is brought to the
 * input's resolution, cut at `size` pixels, and then to the image's: two interpolations as one.
 */
function cellWeights(length, size, stride, cells, whole) {
  const first = new Int32Array(length);
  const weights = new Float32Array(length * 3);
  for (let i = 0; i < length; i++) {
    const inner = whole ? size / stride : size;
    const [lower, upper, share] = neighbours(i, inner / length, inner);
    if (whole) {
      first[i] = lower;
      weights[i * 3] = 1 - share;
      weights[i * 3 + upper - lower] += share;
      continue;
    }
    first[i] = neighbours(lower, 1 / stride, cells)[0];
    for (const [pixel, weight] of [[lower, 1 - share], [upper, share]]) {
      const [low, high, part] = neighbours(pixel, 1 / stride, cells);
      weights[i * 3 + low - first[i]] += weight * (1 - part);
      weights[i * 3 + high - first[i]] += weight * part;
    }
  }
  return { first, weights };
}

/** The channel of the largest of the values of one cell. */
function bestOf(row, cell, channels) {
  let best = 0;
  for (let c = 1; c < channels; c++) {
    if (row[cell * channels + c] > row[cell * channels + best]) best = c;
  }
  return best;
}

/**
 * The best channel of each image pixel: resize_maps, then argmax.
 *
 * `map`: `{data, dims}` with dims (1, C, h, w) on the padded grid; `offset` is added to channel 0.
 * Returns height * width bytes. Where three neighbouring cells agree, every weighted mean of them
 * does too, so classes are compared along the borders only.
 */
export function bestChannels({ data, dims }, stride, size, [height, width], offset = 0) {
  const [, channels, cellRows, cellColumns] = dims;
  const whole = size.every((side) => side % stride === 0);
  const vertical = cellWeights(height, size[0], stride, cellRows, whole);
  const horizontal = cellWeights(width, size[1], stride, cellColumns, whole);
  const row = new Float32Array((cellColumns + 2) * channels); // two more cells of weight 0
  const best = new Uint8Array(cellColumns + 2);
  const mean = new Float32Array(channels);
  const target = new Uint8Array(height * width);
  for (let y = 0; y < height; y++) {
    for (let c = 0; c < channels; c++) {
      for (let x = 0; x < cellColumns; x++) {
        let sum = c ? 0 : offset;
        for (let k = 0; k < 3; k++) {
          const cellRow = Math.min(vertical.first[y] + k, cellRows - 1);
          sum += vertical.weights[y * 3 + k] * data[(c * cellRows + cellRow) * cellColumns + x];
        }
        row[x * channels + c] = sum;
      }
    }
    for (let x = 0; x < cellColumns; x++) best[x] = bestOf(row, x, channels);
    best.fill(best[cellColumns - 1], cellColumns);
    for (let x = 0; x < width; x++) {
      const cell = horizontal.first[x];
      let chosen = best[cell];
      if (best[cell + 1] !== chosen || best[cell + 2] !== chosen) {
        const [a, b, c] = horizontal.weights.subarray(x * 3, x * 3 + 3);
        for (let i = 0, at = cell * channels; i < channels; i++, at++) {
          mean[i] = a * row[at] + b * row[at + channels] + c * row[at + 2 * channels];
        }
        chosen = bestOf(mean, 0, channels);
      }
      target[y * width + x] = chosen;
    }
  }
  return target;
}

/**
 * One map as a class per pixel, for drawing.
 *
 * Of logits whose channel 0 is the background, a pixel has a class where that is at least
 * `threshold` likely when compared with the background alone; at 0.5 this is the best class. Of
 * values, 1 where they reach `threshold`; of vectors, where their length does.
 */
export function classesOf(map, output, classNames, threshold, size, imageSize) {
  const shown = Math.min(Math.max(threshold, 1e-6), 1 - 1e-6);
  if (output.kind === "logits") {
    const offset = classNames[0] === "background" ? Math.log(shown / (1 - shown)) : 0;
    return bestChannels(map, output.stride, size, imageSize, offset);
  }
  const [, channels, cellRows, cellColumns] = map.dims;
  const cells = cellRows * cellColumns;
  const data = new Float32Array(2 * cells).fill(shown, 0, cells);
  for (let i = 0; i < cells; i++) {
    const values = Array.from({ length: channels }, (_, c) => map.data[c * cells + i]);
    data[cells + i] = channels > 1 ? Math.hypot(...values) : values[0];
  }
  const pair = { data, dims: [1, 2, cellRows, cellColumns] };
  return bestChannels(pair, output.stride, size, imageSize);
}

/** COCO's uncompressed run lengths, down the columns, of the pixels with one class. */
export function runLengths(classes, [height, width], classId) {
  const counts = [];
  let [inside, run] = [false, 0];
  for (let x = 0; x < width; x++) {
    for (let y = 0; y < height; y++) {
      if ((classes[y * width + x] === classId) !== inside) {
        counts.push(run);
        [inside, run] = [!inside, 0];
      }
      run++;
    }
  }
  return [...counts, run];
}

/** Names of the outputs that are maps of the image. */
export const mapNames = ({ outputs }) =>
  Object.keys(outputs).filter((name) => ["logits", "values"].includes(outputs[name].kind));

async function download(url) {
  const response = await fetch(url);
  if (!response.ok) throw new Error(`${url} could not be loaded: ${response.status}`);
  return new Uint8Array(await response.arrayBuffer());
}

async function startRuntime() {
  try {
    const runtime = await import("./onnxruntime.js");
    const response = await fetch("ort-wasm-simd-threaded.wasm", { method: "HEAD" });
    if (!response.ok) throw new Error(`${response.status} for ${response.url}`);
    runtime.env.wasm.proxy = true; // in a worker: the page can be used while the network runs
    // Threads need a page that is isolated from other origins; without them one is used.
    const cores = Math.min(navigator.hardwareConcurrency || 1, 4);
    runtime.env.wasm.numThreads = globalThis.crossOriginIsolated ? cores : 1;
    return runtime;
  } catch (error) {
    throw new Error(
      "onnxruntime-web could not be loaded: onnxruntime.js and ort-wasm-simd-threaded.wasm must " +
        `lie beside this page (${error.message})`,
      { cause: error },
    );
  }
}

async function startSession(runtime) {
  const file = await download("model.onnx");
  try {
    return await runtime.InferenceSession.create(file, { executionProviders: ["wasm"] });
  } catch (error) {
    const reason = error.message ?? error;
    throw new Error(`ONNX Runtime could not start model.onnx: ${reason}`, { cause: error });
  }
}

/**
 * Load the exported network.
 *
 * Returns `{info, threads, run}`; `await run(pixels, imageSize)` gives the `objects`, the `maps` of
 * outputs by name, `imageLabels`, the `size` of the network input, and `times` in ms.
 */
export async function loadNetwork() {
  const info = JSON.parse(new TextDecoder().decode(await download("model.json")));
  const runtime = await startRuntime();
  const session = await startSession(runtime);
  const run = async (pixels, imageSize) => {
    const start = performance.now();
    const { data, size, padded } = networkInput(pixels, imageSize, info.input);
    const resized = performance.now();
    const outputs = await session.run({
      images: new runtime.Tensor("uint8", data, [1, ...padded, 3]),
      sizes: new runtime.Tensor("int32", Int32Array.from(size), [1, 2]),
    });
    const finished = performance.now();
    const objects = info.objects ? findObjects(outputs, info.objects, size, imageSize) : [];
    return {
      objects,
      maps: Object.fromEntries(mapNames(info).map((name) => [name, outputs[name]])),
      imageLabels: outputs.image_labels ? Array.from(outputs.image_labels.data) : null,
      size,
      imageSize,
      times: {
        resize: resized - start,
        network: finished - resized,
        results: performance.now() - finished,
      },
    };
  };
  return { info, threads: runtime.env.wasm.numThreads, run };
}
