/** `--live`: one line a second on standard error, rewritten in place on a terminal. */
import { clearLine, cursorTo } from 'node:readline';
import type { BotProgress } from './bot-fleet.ts';
import { formatUs } from './report.ts';

/** Time between two lines, in ms. */
const INTERVAL_MS = 1000;

/** @returns a function that ends it */
export function showLive(takeProgress: () => Promise<BotProgress>): () => void {
  const { stderr } = process;
  let sent = 0;
  let matched = 0;
  let ended = false;
  const show = (progress: BotProgress): void => {
    if (ended) return;
    const line = formatProgress(progress, progress.sent - sent, progress.matched - matched);
    ({ sent, matched } = progress);
    if (stderr.isTTY) {
      cursorTo(stderr, 0);
      clearLine(stderr, 1);
      stderr.write(line);
    } else {
      stderr.write(`${line}\n`);
    }
  };
  const timer = setInterval(() => void takeProgress().then(show), INTERVAL_MS);
  return () => {
    ended = true;
    clearInterval(timer);
    if (stderr.isTTY) stderr.write('\n');
  };
}

function formatProgress(progress: BotProgress, sentNow: number, matchedNow: number): string {
  const { elapsedMs, phase, players, recentUs, wrongServer } = progress;
  const begun = `${(elapsedMs / 1000).toFixed(0).padStart(4)} s  ${phase.padEnd(9)}  ${players} players`;
  if (phase === 'ramp' || phase === 'warm-up') return begun;
  const roundTrip = matchedNow === 0 ? '' : `p50 ${formatUs(recentUs.p50)}  p99 ${formatUs(recentUs.p99)}  `;
  return `${begun}  ${sentNow} sent/s  ${matchedNow} answered/s  ${roundTrip}wrong server ${wrongServer}`;
}
