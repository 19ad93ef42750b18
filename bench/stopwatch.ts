/**
 * Times small pieces of code against each other. Every piece first runs warm, then the pieces take turns, so that a
 * slow second of the machine falls on all of them; the median over the turns is what counts. Each piece returns a number
 * made from its results, and the numbers are kept: the compiler can't drop work whose result is used.
 */
import assert from 'node:assert/strict';

export interface TimedPiece {
  readonly name: string;
  /** Does the work `iterations` times and returns a number that depends on it. */
  readonly run: (iterations: number) => number;
}

export interface StopwatchOptions {
  readonly turns: number;
  /** How long one turn of one piece should take, in ms. */
  readonly turnMs: number;
}

/** @returns the median time of one iteration, in ns, by the piece's name */
export function timeInTurns(
  pieces: readonly TimedPiece[],
  { turns, turnMs }: StopwatchOptions,
): Map<string, number> {
  const lanes = pieces.map((piece) => ({
    piece,
    iterations: warmUp(piece, turnMs),
    samples: [] as number[],
  }));
  for (let turn = 0; turn < turns; turn++) {
    for (const { piece, iterations, samples } of lanes)
      samples.push(timeOnce(piece, iterations) / iterations);
  }
  return new Map(lanes.map(({ piece, samples }) => [piece.name, median(samples)]));
}

export function median(values: readonly number[]): number {
  assert(values.length > 0, 'a median needs a value');
  const sorted = values.toSorted((a, b) => a - b);
  const middle = sorted.length >> 1;
  return sorted.length % 2 === 1 ? sorted[middle]! : (sorted[middle - 1]! + sorted[middle]!) / 2;
}

/** Code that ran for less is in part still interpreted, which takes up to a hundred times as long. */
const MIN_WARM_UP_MS = 80;

/** Runs the piece until it is warm. @returns the iterations that fill one turn */
function warmUp(piece: TimedPiece, turnMs: number): number {
  let iterations = 1;
  let spentNs = 0;
  let lastNs = 0;
  while (spentNs < 1e6 * Math.max(MIN_WARM_UP_MS, 2 * turnMs)) {
    iterations *= 2;
    lastNs = timeOnce(piece, iterations);
    spentNs += lastNs;
  }
  return Math.max(1, Math.round((iterations * 1e6 * turnMs) / lastNs));
}

function timeOnce(piece: TimedPiece, iterations: number): number {
  const start = process.hrtime.bigint();
  const result = piece.run(iterations);
  const end = process.hrtime.bigint();
  assert(Number.isFinite(result), `${piece.name} gave no number`);
  return Number(end - start);
}
