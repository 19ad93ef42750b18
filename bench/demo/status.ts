/** The demo's status line. */
import { clearLine, cursorTo } from 'node:readline';
import type { BotFleet } from '../../botclient/bot-fleet.ts';
import { readRelayMetrics } from '../relay-metrics.ts';
import { formatNumber, formatShare, formatTime } from '../report/section.ts';
import { GAME_SERVERS } from './site.ts';

const STATUS_INTERVAL_MS = 1_000;

interface Fleet {
  readonly bots: BotFleet;
  readonly admin: string;
}

/** One line a second, rewritten in place on a terminal. @returns a function that ends it */
export function showStatus(fleet: Fleet): () => void {
  const { stdout } = process;
  const describe = statusLine(fleet);
  const timer = setInterval(() => {
    describe().then(
      (line) => {
        if (!stdout.isTTY) {
          print(`${line}\n`);
          return;
        }
        cursorTo(stdout, 0);
        clearLine(stdout, 1);
        // A line that wraps could not be rewritten.
        print(line.slice(0, stdout.columns - 1));
      },
      // The relay is ending; the summary follows.
      () => undefined,
    );
  }, STATUS_INTERVAL_MS);
  return () => {
    clearInterval(timer);
    if (stdout.isTTY) print('\n');
  };
}

/** @returns a function that says what happened since its last call */
function statusLine({ bots, admin }: Fleet): () => Promise<string> {
  let before = { atMs: performance.now(), forwarded: 0, sent: 0 };
  return async () => {
    const {
      counts: { forwarded },
    } = await readRelayMetrics(admin);
    const atMs = performance.now();
    const { players, sent, matched, recentUs } = bots.progress();
    const perSecond = (1000 * (forwarded - before.forwarded)) / (atMs - before.atMs);
    // Updates sent before the last line should have been answered by now.
    const lost = Math.max(0, before.sent - matched);
    before = { atMs, forwarded, sent };
    return [
      `${players} players (${playersByServer(bots)})`,
      `${formatNumber(perSecond)} datagrams/s`,
      `p50 ${formatTime(recentUs.p50)} µs`,
      `p99 ${formatTime(recentUs.p99)} µs`,
      `loss ${formatShare(lost / Math.max(1, sent))}`,
    ].join('  ');
  };
}

/** Players on each server, in order: `4+3+3`. */
function playersByServer({ players }: BotFleet): string {
  const counts = Array.from({ length: GAME_SERVERS }, (_, i) => {
    return players.filter(({ serverId }) => serverId === i + 1).length;
  });
  return counts.join('+');
}

export function print(text: string): void {
  process.stdout.write(text);
}
