// The marks of charts: characters for their legends, and shapes on a canvas.

/** The marks of a chart in its legend. */
export const SHAPES = { triangle: "▲", cross: "✕", diamond: "◆", play: "▶", square: "■" };

/** Draws a mark of this size, centred. */
export function paintShape(ctx, shape, x, y, size) {
  const lines = {
    triangle: [[[0, -1], [-1, 1], [1, 1]]],
    diamond: [[[0, -1], [-1, 0], [0, 1], [1, 0]]],
    play: [[[-0.8, -1], [1, 0], [-0.8, 1]]],
    square: [[[-0.8, -0.8], [-0.8, 0.8], [0.8, 0.8], [0.8, -0.8]]],
    cross: [[[-1, -1], [1, 1]], [[-1, 1], [1, -1]]],
  };
  ctx.beginPath();
  for (const [[firstX, firstY], ...rest] of lines[shape]) {
    ctx.moveTo(x + size * firstX, y + size * firstY);
    for (const [right, down] of rest) ctx.lineTo(x + size * right, y + size * down);
  }
  if (shape === "cross") ctx.stroke();
  else ctx.fill();
}
