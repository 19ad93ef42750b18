/** How far the run is: a bar on a terminal, a line for each step otherwise; on standard error, away from the results. */
import { Presets, SingleBar } from 'cli-progress';

export interface Progress {
  /** A step begins; the one before is done. */
  step(task: string): void;
  /** So many steps will not be taken. */
  skip(steps: number): void;
  close(): void;
}

export function createProgress(steps: number, stream: NodeJS.WriteStream = process.stderr): Progress {
  return stream.isTTY ? new BarProgress(steps, stream) : new LineProgress(steps, stream);
}

class BarProgress implements Progress {
  readonly #bar: SingleBar;
  #done = -1;

  constructor(steps: number, stream: NodeJS.WriteStream) {
    const format = '{bar} {percentage} % | {duration_formatted} | {task}';
    this.#bar = new SingleBar(
      { format, stream, hideCursor: true, clearOnComplete: true, barsize: 30, stopOnComplete: false },
      Presets.shades_classic,
    );
    this.#bar.start(steps, 0, { task: 'starting' });
  }

  step(task: string): void {
    this.#bar.update(++this.#done, { task });
  }

  skip(steps: number): void {
    this.#done += steps;
    this.#bar.update(this.#done);
  }

  close(): void {
    this.#bar.stop();
  }
}

class LineProgress implements Progress {
  readonly #steps: number;
  readonly #stream: NodeJS.WriteStream;
  #begun = 0;

  constructor(steps: number, stream: NodeJS.WriteStream) {
    this.#steps = steps;
    this.#stream = stream;
  }

  step(task: string): void {
    this.#begun++;
    // A step that is measured twice makes the run longer than planned.
    this.#stream.write(`[${this.#begun}/${Math.max(this.#begun, this.#steps)}] ${task}\n`);
  }

  skip(steps: number): void {
    this.#begun += steps;
  }

  close(): void {
    // Every line is complete.
  }
}
